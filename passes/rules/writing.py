"""Rules of the operators that write at computed positions: ScatterElements, ScatterND, TensorScatter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattered_slices import combine_rows
from .scattering import merge_axes, row_positions
from .sizes import count_up_to, size_of
from .slicing import crop

rules = Registry()

Read = Callable[[Tensor], Tensor]
"""Reads a tensor of the data's shape at the positions that the operator writes to."""
Write = Callable[..., Tensor]
"""Writes updates to a tensor of the data's shape, with a reduction."""


@rules.vjp("ScatterElements", inputs=(0, 2))
def scatter_elements(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """See `_scatter`."""
    op, indices, axis = n.op, n.required(1), n.axis(0)

    def read(source: Tensor) -> Tensor:
        return op.GatherElements(source, indices, axis=axis)

    def write(data: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
        return op.ScatterElements(data, indices, updates, axis=axis, reduction=reduction)

    return _scatter(n, dy, read, write)


@rules.vjp("ScatterND", inputs=(0, 2))
def scatter_nd(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """See `_scatter`. Where positions may repeat, the slices are written as rows by ScatterElements."""
    op, x, indices, shape = n.op, n.required(0), n.required(1), n.required(2).value.shape

    def read(source: Tensor) -> Tensor:
        slices = op.GatherND(source, indices)
        slices.value.shape = None if shape is None else shape.copy()
        return slices

    def write(data: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
        if reduction == "none":
            return op.ScatterND(data, indices, updates)
        depth = indices.rank - 1 + x.rank - updates.rank
        rows = merge_axes(updates, 0, indices.rank - 1)
        positions = row_positions(x, indices, depth).reshape([-1])
        return combine_rows(merge_axes(data, 0, depth), positions, rows, reduction).reshape_like(data)

    return _scatter(n, dy, read, write)


@rules.vjp("TensorScatter", inputs=(0, 1))
def tensor_scatter(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent of the cache is dy, zero where it was written over; that of the update is dy there."""
    op, update, starts, axis = n.op, n.required(1), n.input(2), n.axis(-2)

    def cotangent_update() -> Tensor:
        length = size_of(update, axis)
        if starts is None:
            return crop(dy, {axis: (0, length)})
        positions = starts.unsqueeze([1]) + count_up_to(op, length)
        if n.attr("mode", "linear") == "circular":
            positions = op.Mod(positions, dy.sizes([axis]))
        positions = positions.unsqueeze([other for other in range(1, dy.rank) if other != axis])
        return op.GatherElements(dy, op.Expand(positions, update.sizes()), axis=axis)

    def cotangent_cache() -> Tensor:
        attributes = {name: attribute.value for name, attribute in n.node.attributes.items()}
        return op.TensorScatter(dy, op.zeros_like(update), starts, **attributes)

    return cotangent_cache, cotangent_update


def _scatter(n: Primal, dy: Tensor, read: Read, write: Write) -> Sequence[Cotangent]:
    """The cotangents of y = data, written over or combined with updates, by the operator's reduction."""
    reduction = n.attr("reduction", "none")
    if reduction == "add":
        return lambda: dy, None, lambda: read(dy)
    if reduction == "mul":
        return _multiplied(n, dy, read, write)
    if reduction in ("max", "min"):
        return _largest(n, dy, read, write)
    return lambda: write(dy, n.op.zeros_like(n.required(2))), None, lambda: read(dy)


def _multiplied(n: Primal, dy: Tensor, read: Read, write: Write) -> Sequence[Cotangent]:
    """dy times the product of the other factors of each element, exact where some are zero."""
    op, data, updates = n.op, _wide(n.required(0)), _wide(n.required(2))

    def zeros_of(factor: Tensor) -> Tensor:
        return factor.equals(0).cast(factor.dtype)

    def without_zeros(factor: Tensor) -> Tensor:
        return op.Where(factor.equals(0), op.constant(1, factor.dtype), factor)

    @cache
    def zeros() -> Tensor:
        return write(zeros_of(data), zeros_of(updates), "add")

    @cache
    def product() -> Tensor:
        return write(without_zeros(data), without_zeros(updates), "mul")

    def others(factor: Tensor, at: Read) -> Tensor:
        rest = at(product()) / without_zeros(factor)
        return op.Where(at(zeros()).equals(zeros_of(factor)), rest, op.constant(0, rest.dtype))

    return (
        lambda: _wide(dy) * others(data, lambda source: source),
        None,
        lambda: read(_wide(dy)) * others(updates, read),
    )


def _largest(n: Primal, dy: Tensor, read: Read, write: Write) -> Sequence[Cotangent]:
    """dy goes to the elements that are the maximum (or minimum), split evenly between ties, as PyTorch does."""
    data, updates, y = _wide(n.required(0)), _wide(n.required(2)), _wide(n.outputs[0])

    @cache
    def chosen(index: int) -> Tensor:
        return (data.equals(y) if index == 0 else updates.equals(read(y))).cast(data.dtype)

    @cache
    def share() -> Tensor:
        return _wide(dy) / write(chosen(0), chosen(1), "add")

    return lambda: share() * chosen(0), None, lambda: read(share()) * chosen(1)


def _wide(x: Tensor) -> Tensor:
    """*x* in a type that ONNX Runtime can scatter with a reduction: float32 for float16 and bfloat16."""
    return x.cast(ir.DataType.FLOAT) if x.dtype.bitwidth < 32 else x
