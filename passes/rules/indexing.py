"""Rules of the operators that read at computed positions: the gathers, Compress, TopK, Unique, OneHot.

A float16 cotangent of elements that may be read more than once is added up in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattered_slices import sums_of_slices
from .scattering import (
    add_elements,
    chosen_elements,
    merge_axes,
    put_at_flat_positions,
    put_slices,
    row_positions,
)
from .sizes import size_of
from .slicing import zero_pad

rules = Registry()


@rules.vjp("Gather", inputs=(0,))
def gather(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangents of all reads of a slice are added up; a Pad where the slices are known to be neighbours."""
    x, indices, axis = n.required(0), n.required(1), n.axis(0)

    def cotangent() -> Tensor:
        slices = merge_axes(dy, axis, axis + indices.rank)
        first = _first_of_neighbours(indices)
        if first is None:
            return n.fastest(sums_of_slices(x, indices.reshape([-1]), slices, axis))
        size = size_of(x, axis)
        before = first if first >= 0 else size + first
        return zero_pad(slices, {axis: (before, size - before - size_of(slices, axis))})

    return cotangent


def _first_of_neighbours(indices: Tensor) -> int | None:
    """The first of constant indices i, i + 1, i + 2, …; None if they are anything else."""
    if indices.constant is None or indices.constant.size == 0:
        return None
    values = indices.constant.reshape(-1)
    ascending = bool(np.all(np.diff(values) == 1)) and bool(values[0] >= 0) == bool(values[-1] >= 0)
    return int(values[0]) if ascending else None


@rules.vjp("GatherElements", inputs=(0,))
def gather_elements(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangents of all reads of an element are added up."""
    op, x, indices = n.op, n.required(0), n.required(1)

    def cotangent() -> Tensor:
        chosen = chosen_elements(x, indices, n.axis(0))
        if chosen is not None:
            return op.Where(chosen, dy, op.constant(0, dy.dtype))
        return add_elements(op.zeros_like(x), indices, dy, n.axis(0))

    return cotangent


@rules.vjp("GatherND", inputs=(0,), limits="indices of unknown last size, if the rank of the output is unknown, too")
def gather_nd(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangents of all reads of a slice are added up."""
    x, indices, batch_axes = n.required(0), n.required(1), n.attr("batch_dims", 0)
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        if n.outputs[0].value.shape is None:
            raise n.refuse("how many axes it indexes (the last size of its indices) is unknown")
        depth = x.rank + indices.rank - 1 - batch_axes - dy.rank

    def cotangent() -> Tensor:
        rows = merge_axes(x, 0, batch_axes + depth)
        positions = row_positions(x, indices, depth, batch_axes).reshape([-1])
        return n.fastest(sums_of_slices(rows, positions, merge_axes(dy, 0, indices.rank - 1), 0)).reshape_like(x)

    return cotangent


@rules.vjp("Compress", inputs=(0,))
def compress(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent goes back to the chosen slices; the others have zero."""
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        positions, axis = op.NonZero(n.required(1)).squeeze([0]), n.attr("axis")
        if axis is None:
            return put_at_flat_positions(x, positions, dy)
        return put_slices(op.zeros_like(x), positions, dy, axis % x.rank)

    return cotangent


@rules.vjp("Unique", inputs=(0,))
def unique(n: Primal, dy: Tensor, *_: Tensor | None) -> Cotangent:
    """The cotangent goes to the first of the equal values or slices, the one whose index the operator returns."""
    op, x, axis = n.op, n.required(0), n.attr("axis")

    def cotangent() -> Tensor:
        attributes = {} if axis is None else {"axis": axis}
        _, first = op.emit_many("Unique", x, outputs=2, sorted=n.attr("sorted", 1), **attributes)
        if axis is None:
            return put_at_flat_positions(x, first, dy)
        return put_slices(op.zeros_like(x), first, dy, axis % x.rank)

    return cotangent


@rules.vjp("TopK", inputs=(0,))
def top_k(n: Primal, dvalues: Tensor, _: None) -> Cotangent:
    """The cotangent goes back to the chosen elements; the others have zero."""
    op, x, indices = n.op, n.required(0), n.outputs[1]
    return lambda: op.ScatterElements(op.zeros_like(x), indices, dvalues, axis=n.axis(-1))


@rules.vjp("OneHot", inputs=(2,))
def one_hot(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent of the on-value is the sum over the hot elements, that of the off-value over the others."""
    op, values = n.op, n.required(2)

    def cotangent() -> Tensor:
        zero_one = op.constant([0, 1], ir.DataType.FLOAT)
        hot = op.OneHot(n.required(0), n.required(1), zero_one, axis=n.attr("axis", -1)).cast(values.dtype)
        sums = [(dy * mask).sum().unsqueeze([0]) for mask in (1 - hot, hot)]
        return op.Concat(*sums, axis=0)

    return None, None, cotangent
