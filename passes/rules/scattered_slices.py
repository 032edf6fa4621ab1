"""The adjoint of reading slices at computed positions that may repeat, in its exact forms.

ONNX Runtime adds up at repeated positions on one thread of the CPU, in ScatterElements: an element takes about 4 ns
where indices are a vector, 5 to 17 where they have two axes. But of those, where sizes are known, a session makes what
takes 1 (`ScatterInPieces`), and the sums need not be written a second time, in their shape. Slices of few positions are
added up by a matrix product in as little.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from ..forms import Alternatives
from ..tape import Tensor
from .scattering import NARROW, add_slices, merge_axes

_SLICES, _ELEMENTS, _PRODUCT = "slices", "elements", "product"
"""The forms: indices in the shape of the slices, in one vector, and a matrix product with ones at the positions."""

MOST_IN_PRODUCT = 16
"""Up to so many positions to choose from, the product is expected to be faster than to scatter."""
_MOST_OFFERED = 256
_LARGEST_INT32 = 2**31 - 1


def sums_of_slices(like: Tensor, positions: Tensor, slices: Tensor, axis: int) -> Alternatives:
    """Zeros of the shape of *like* with *slices* along *axis* added at *positions*, 1-D; negative ones from the end.

    float16 and bfloat16 are added up in float32.
    """

    def by_slices(like: Tensor, positions: Tensor, slices: Tensor) -> Tensor:
        return add_slices(like.op.zeros_like(like), positions, slices, axis)

    def by_elements(like: Tensor, positions: Tensor, slices: Tensor) -> Tensor:
        return _combine_elements(like.op.zeros_like(like), positions, slices, "add")

    def by_product(like: Tensor, positions: Tensor, slices: Tensor) -> Tensor:
        return _product(like, positions, slices, axis)

    forms = {_SLICES: by_slices}
    if like.rank > 1:
        if axis == 0:
            # Along another, what is out of range would be in range of the elements.
            forms[_ELEMENTS] = by_elements
        if _has_product(like, positions, axis):
            forms[_PRODUCT] = by_product
    return Alternatives(
        "sums of slices at positions",
        (like, positions, slices),
        {"axis": axis},
        forms,
        expected=_expected(like, positions, axis),
        plain=_SLICES,
        positions={1: (0, axis)},
    )


def combine_rows(data: Tensor, positions: Tensor, rows: Tensor, reduction: str) -> Tensor:
    """*data* with *rows* combined with its slices along axis 0 at *positions* (1-D), as ScatterElements does."""
    if reduction == "add" and data.static_shape is not None and rows.static_shape is not None:
        return add_slices(data, positions, rows, 0)
    return _combine_elements(data, positions, rows, reduction)


def _combine_elements(data: Tensor, positions: Tensor, slices: Tensor, reduction: str) -> Tensor:
    op, dtype = data.op, data.dtype
    wide = ir.DataType.FLOAT if dtype in NARROW else dtype
    indices = positions if data.rank == 1 else _flat_indices(data, positions).reshape([-1])
    flat, updates = (tensor.reshape([-1]).cast(wide) for tensor in (data, slices))
    combined = op.ScatterElements(flat, indices, updates, axis=0, reduction=reduction)
    return combined.cast(dtype).reshape_like(data)


def _has_product(like: Tensor, positions: Tensor, axis: int) -> bool:
    """Unless no reads could be several empty products, of which ONNX Runtime 1.31 sets only the first to zero."""
    reads = positions.shape[0]
    one_product = axis in (0, like.rank - 1)
    size = like.shape[axis]
    return isinstance(size, int) and size <= _MOST_OFFERED and (one_product or (isinstance(reads, int) and reads > 0))


def _expected(like: Tensor, positions: Tensor, axis: int) -> str:
    """The product for few positions, unless its matrix were larger than the slices' indices."""
    size = like.shape[axis]
    others = [dim for dim in (*like.shape[:axis], *like.shape[axis + 1 :]) if isinstance(dim, int)]
    if like.rank == 1:
        return _SLICES
    if not isinstance(size, int):
        return _ELEMENTS if axis == 0 else _SLICES
    few = size <= MOST_IN_PRODUCT and size <= 2 * prod(others)
    return _PRODUCT if few and _has_product(like, positions, axis) else _SLICES


def _flat_indices(like: Tensor, positions: Tensor) -> Tensor:
    """Where each element of slices along axis 0 goes among those of *like*; what counts from the end still does."""
    known = like.static_shape
    dtype = ir.DataType.INT32 if known is not None and prod(known) <= _LARGEST_INT32 else ir.DataType.INT64
    behind = like.count(range(1, like.rank), dtype=dtype)
    return (positions.cast(dtype) * behind).unsqueeze([1]) + _range(behind)


def _product(like: Tensor, positions: Tensor, slices: Tensor, axis: int) -> Tensor:
    """The slices times a matrix with a one where a position is that of a row."""
    op, dtype = like.op, slices.dtype
    wide = ir.DataType.FLOAT if dtype in NARROW else dtype
    size = like.shape[axis]
    assert isinstance(size, int)
    # Gather refuses what is out of range.
    ones = op.Gather(op.constant(np.eye(size), wide), positions, axis=0)
    slices = slices.cast(wide)
    if axis == like.rank - 1:
        total = slices @ ones
    else:
        merged = merge_axes(slices, axis + 1, like.rank)
        total = op.Gemm(ones, merged, transA=1) if axis == 0 else ones.transpose([1, 0]) @ merged
    return total.cast(dtype).reshape_like(like)


def _range(count: Tensor) -> Tensor:
    """0, 1, 2, … below a scalar, in its dtype."""
    op = count.op
    return op.Range(op.constant(0, count.dtype), count, op.constant(1, count.dtype))
