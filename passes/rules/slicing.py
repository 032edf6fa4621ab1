"""Rules of the operators that cut tensors apart and put them together: Slice, Split, Concat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattering import flat_positions, put_at_flat_positions
from .sizes import Size, join_sizes, larger, size_of, smaller

rules = Registry()

TO_THE_END = int(np.iinfo(np.int64).max)
"""The `ends` of a Slice that cuts nothing off."""


@rules.vjp("Slice", inputs=(0,))
def slice_(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent goes back to where the slice was cut, into zeros.

    With steps of 1 that is a Pad. With other steps over known sizes the cotangent is first spread out, zeros in
    between; else it is put at the positions that the same Slice reads.
    """
    cuts = _cuts(n)
    return lambda: _put_at_sliced_positions(n, dy) if cuts is None else _put_back(n.required(0), dy, cuts)


@rules.vjp("Split", inputs=(0,))
def split(n: Primal, *dys: Tensor | None) -> Cotangent:
    """The cotangents are concatenated, zeros for the outputs that have none."""
    op = n.op

    def cotangent() -> Tensor:
        pieces = [op.zeros_like(y) if dy is None else dy for y, dy in zip(n.outputs, dys, strict=True)]
        return pieces[0] if len(pieces) == 1 else op.Concat(*pieces, axis=n.axis(0))

    return cotangent


@rules.vjp("Concat")
def concat(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent is cut into the pieces that were put together."""
    op, axis = n.op, n.axis(0)
    pieces = [n.required(index) for index in range(len(n.inputs))]
    sizes = [size_of(piece, axis) for piece in pieces]

    @cache
    def all_pieces() -> tuple[Tensor, ...]:
        return op.emit_many("Split", dy, join_sizes(op, sizes), outputs=len(pieces), axis=axis)

    def piece(index: int) -> Tensor:
        if len(pieces) == 1:
            return dy
        if all(n.active):
            return all_pieces()[index]
        edges = list(accumulate(sizes, initial=0))
        return crop(dy, {axis: (edges[index], edges[index + 1])})

    return [partial(piece, index) for index in range(len(pieces))]


def crop(x: Tensor, bounds: Mapping[int, tuple[Size, Size]]) -> Tensor:
    """Cut *x* to the given [start, end) of the axes; negative known bounds count from the end."""
    op = x.op
    cut = {axis: edges for axis, edges in bounds.items() if edges != (0, TO_THE_END)}
    if not cut:
        return x
    starts, ends = zip(*cut.values(), strict=True)
    return op.Slice(x, join_sizes(op, starts), join_sizes(op, ends), op.ints(list(cut)))


def zero_pad(x: Tensor, margins: Mapping[int, tuple[Size, Size]]) -> Tensor:
    """Surround *x* by zeros: so many before and after it along each axis (none negative).

    The pads are written for every axis: ONNX Runtime 1.31 moves transposes across a Pad as if it had no `axes`.
    """
    if all(margin == (0, 0) for margin in margins.values()):
        return x
    before, after = zip(*(margins.get(axis, (0, 0)) for axis in range(x.rank)), strict=True)
    return x.op.Pad(x, join_sizes(x.op, [*before, *after]))


def elements(vector: Tensor, count: int) -> list[Size]:
    """The elements of a 1-D integer tensor of *count* elements: known ones as numbers."""
    if vector.constant is not None:
        return [int(value) for value in vector.constant.reshape(-1)]
    vector = vector.cast(ir.DataType.INT64)
    return [vector] if count == 1 else [crop(vector, {0: (index, index + 1)}) for index in range(count)]


@dataclass(frozen=True)
class _Cut:
    """What a Slice takes of one axis, in ascending order.

    Attributes:
        before: how many elements it leaves out before the first one taken.
        after: how many it leaves out after the last one, and the `stride - 1` that follow it.
        stride: the distance between those it takes.
        reversed: whether it takes them in descending order.
        empty: whether it is known to take none.
    """

    before: Size
    after: Size
    stride: int = 1
    reversed: bool = False
    empty: bool = False


def _cuts(n: Primal) -> dict[int, _Cut] | None:
    """What the Slice node takes of each axis that it cuts; None if that is only known when the graph runs."""
    x, starts, ends = n.required(0), n.required(1), n.required(2)
    axes, steps = n.input(3), n.input(4)
    if any(tensor is not None and tensor.constant is None for tensor in (axes, steps)):
        return None
    if starts.static_shape is None or ends.static_shape is None:
        return None
    (count,) = starts.static_shape
    where = range(count) if axes is None else [int(axis) % x.rank for axis in _known(axes)]
    strides = [1] * count if steps is None else _known(steps)
    cuts = {}
    bounds = zip(where, elements(starts, count), elements(ends, count), strides, strict=True)
    for axis, start, end, step in bounds:
        cut = _cut(size_of(x, axis), start, end, step)
        if cut is None:
            return None
        cuts[axis] = cut
    return cuts


def _known(vector: Tensor) -> list[int]:
    assert vector.constant is not None
    return [int(value) for value in vector.constant]


def _cut(dim: Size, start: Size, end: Size, step: int) -> _Cut | None:
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        positions = range(*slice(start, end, step).indices(dim))
        if not positions:
            return _Cut(0, dim, empty=True)
        first, stride = min(positions[0], positions[-1]), abs(step)
        return _Cut(first, dim - first - len(positions) * stride, stride, reversed=step < 0)
    if step != 1:
        return None
    before = _locate(start, dim)
    stop = _locate(end, dim)
    if stop is dim:
        return _Cut(before, 0)
    return _Cut(before, dim - (stop if before == 0 else larger(stop, before)))


def _locate(bound: Size, dim: Size) -> Size:
    """The position that the start or end of a Slice with step 1 names, clamped as ONNX does."""
    if isinstance(bound, int):
        if bound == 0:
            return 0
        if bound >= np.iinfo(np.int32).max:
            return dim
        return larger(dim + bound, 0) if bound < 0 else smaller(dim, bound)
    from_end = bound.op.Where(bound < 0, bound + dim, bound)
    return smaller(larger(from_end, 0), dim)


def _put_back(x: Tensor, dy: Tensor, cuts: Mapping[int, _Cut]) -> Tensor:
    if any(cut.empty for cut in cuts.values()):
        return x.op.zeros_like(x)
    dy = _flip(dy, [axis for axis, cut in cuts.items() if cut.reversed])
    dy = _spread(dy, {axis: cut.stride for axis, cut in cuts.items() if cut.stride > 1})
    overhang = {axis: cut.after for axis, cut in cuts.items() if isinstance(cut.after, int) and cut.after < 0}
    dy = crop(dy, {axis: (0, after) for axis, after in overhang.items()})
    return zero_pad(dy, {axis: (cut.before, 0 if axis in overhang else cut.after) for axis, cut in cuts.items()})


def _flip(x: Tensor, axes: Sequence[int]) -> Tensor:
    if not axes:
        return x
    op, count = x.op, len(axes)
    first, end = op.ints([-1] * count), op.ints([np.iinfo(np.int64).min] * count)
    return op.Slice(x, first, end, op.ints(axes), op.ints([-1] * count))


def _spread(x: Tensor, strides: Mapping[int, int]) -> Tensor:
    """Follow each element along the axes by `stride - 1` zeros."""
    if not strides:
        return x
    axes = sorted(strides)
    inner = {axis: axis + 1 + index for index, axis in enumerate(axes)}
    padded = zero_pad(x.unsqueeze(list(inner.values())), {inner[axis]: (0, strides[axis] - 1) for axis in axes})
    sizes = [size_of(x, axis) for axis in range(x.rank)]
    return padded.reshape(join_sizes(x.op, [size * strides.get(axis, 1) for axis, size in enumerate(sizes)]))


def _put_at_sliced_positions(n: Primal, dy: Tensor) -> Tensor:
    x = n.required(0)
    positions = n.op.Slice(flat_positions(x), *n.inputs[1:])
    return put_at_flat_positions(x, positions, dy)
