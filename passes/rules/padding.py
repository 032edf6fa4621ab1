"""Rules of the operators that surround a tensor or cut its border off: Pad, CenterCropPad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattering import add_slices
from .sizes import Size, join_sizes, larger, size_of
from .slicing import TO_THE_END, crop, elements, zero_pad

rules = Registry()


@rules.vjp("Pad", inputs=(0, 2))
def pad(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """The cotangent of the data is cropped; in the other modes the border's is added where it was copied from.

    Negative pads, which crop the data, are filled with zeros. The cotangent of the constant is the sum over
    the border.
    """
    op, x, pads, fill, axes = n.op, n.required(0), n.required(1), n.input(2), n.input(3)
    mode = n.attr("mode", "constant")

    def cotangent() -> Tensor:
        margins = _margins(n)
        if mode != "constant":
            result = dy
            for axis, (before, after) in margins.items():
                result = _fold_border(result, size_of(x, axis), axis, before, after, mode)
            return result
        cropped = crop(
            dy,
            {axis: (larger(before, 0), _end(size_of(dy, axis), after)) for axis, (before, after) in margins.items()},
        )
        return zero_pad(cropped, _cropped_by(margins))

    def constant_cotangent() -> Tensor:
        assert fill is not None
        border = op.Pad(op.zeros_like(x), pads, op.constant(1, x.dtype), axes, mode="constant")
        return (dy * border).sum().reshape_like(fill)

    return cotangent, None, constant_cotangent


@rules.vjp("CenterCropPad", inputs=(0,))
def center_crop_pad(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is cropped where the input was padded and padded where it was cropped, centred alike."""
    x = n.required(0)
    axes = n.attr("axes")
    if axes is None:
        return lambda: n.op.CenterCropPad(dy, x.sizes())
    return lambda: n.op.CenterCropPad(dy, x.sizes(axes), axes=axes)


def _margins(n: Primal) -> dict[int, tuple[Size, Size]]:
    """The pads before and after each axis that has any."""
    x, pads, axes = n.required(0), n.required(1), n.input(3)
    where: Sequence[int] = range(x.rank)
    if axes is not None and axes.constant is not None:
        where = [int(axis) % x.rank for axis in axes.constant]
    elif axes is not None:
        pads = _pads_of_all_axes(x, pads, axes)
    each = elements(pads, 2 * len(where))
    pairs = zip(each[: len(where)], each[len(where) :], strict=True)
    return {axis: pair for axis, pair in zip(where, pairs, strict=True) if pair != (0, 0)}


def _pads_of_all_axes(x: Tensor, pads: Tensor, axes: Tensor) -> Tensor:
    """The *pads* of *axes*, which are computed in the graph, among zeros for the other axes of *x*."""
    op, axes = x.op, axes.cast(ir.DataType.INT64)
    before = op.Where(axes < 0, axes + x.rank, axes)
    return op.ScatterElements(op.ints([0] * 2 * x.rank), op.Concat(before, before + x.rank, axis=0), pads, axis=0)


def _end(size: Size, after: Size) -> Size:
    if isinstance(after, int):
        return -after if after > 0 else TO_THE_END
    return size - larger(after, 0)


def _cropped_by(margins: dict[int, tuple[Size, Size]]) -> dict[int, tuple[Size, Size]]:
    """How much negative pads cut off."""
    return {axis: (larger(0 - before, 0), larger(0 - after, 0)) for axis, (before, after) in margins.items()}


def _fold_border(dy: Tensor, size: Size, axis: int, before: Size, after: Size, mode: str) -> Tensor:
    """Add the border of *dy* along *axis* to the elements of the centre that it is a copy of."""
    op = dy.op
    cut_before, cut_after = _cropped_by({axis: (before, after)})[axis]
    before, after = larger(before, 0), larger(after, 0)
    kept = size - cut_before - cut_after
    end = before + kept
    sides = [(0, before)] * (before != 0) + [(end, TO_THE_END)] * (after != 0)
    centre = crop(dy, {axis: (before, end)})
    if sides:
        sources = _sources(dy, kept, before, after, mode)
        border = op.Concat(*(crop(dy, {axis: side}) for side in sides), axis=axis)
        positions = op.Concat(*(crop(sources, {0: side}) for side in sides), axis=0)
        centre = add_slices(centre, positions, border, axis)
    return zero_pad(centre, {axis: (cut_before, cut_after)})


def _sources(dy: Tensor, size: Size, before: Size, after: Size, mode: str) -> Tensor:
    """For each position along a padded axis, the position before padding that it is a copy of."""
    op = dy.op
    if isinstance(size, int) and isinstance(before, int) and isinstance(after, int):
        return op.ints(np.pad(np.arange(size), (before, after), mode=mode))  # type: ignore[call-overload]
    zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
    positions = op.Range(zero, join_sizes(op, [size]).squeeze([0]), one)
    return op.Pad(positions, join_sizes(op, [before, after]), mode=mode)
