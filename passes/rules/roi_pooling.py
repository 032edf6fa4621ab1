"""Rules of pooling in regions of interest: RoiAlign, MaxRoiPool.

The regions get no gradient. MaxRoiPool is piecewise constant in them; RoiAlign is not, but torchvision gives none
either: detectors train their boxes by a loss of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .interpolation import Interpolation, as_float, in_single_precision
from .recurrent_scans import Iteration, scan
from .scattering import add_elements, merge_axes
from .sizes import Size, count_up_to, join_sizes, size_of
from .slicing import crop

rules = Registry()


@rules.vjp("RoiAlign", inputs=(0,))
def roi_align(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = Σ Aᵀ dy B over the regions of an image; in mode "max", dy times its weight to the element that was largest.

    The average over the samples of a bin is separable, y = A x Bᵀ, with one row for each bin in A and in B. In mode
    "max" the operator does not interpolate: the largest product of an element next to a sample and its weight is y.
    """
    largest = n.attr("mode", "avg") == "max"
    return lambda: _align_largest(n, dy) if largest else _align_average(n, dy), None, None


@rules.vjp("MaxRoiPool", inputs=(0,))
def max_roi_pool(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent of each bin goes to the first of its largest elements; that of an empty bin goes nowhere."""

    def cotangent() -> Tensor:
        op, x, rois = n.op, in_single_precision(n.required(0)), in_single_precision(n.required(1))
        rows, row_in_bin = _elements_of_bins(n, rois, size_of(x, 2), 0)
        columns, column_in_bin = _elements_of_bins(n, rois, size_of(x, 3), 1)
        image = _column(rois, 0).cast(ir.DataType.INT64).unsqueeze([2])
        row = image * size_of(x, 2) + rows.unsqueeze([1, 4])
        in_bin = op.And(row_in_bin.unsqueeze([1, 4]), column_in_bin.unsqueeze([0, 3]))
        element = op.Where(in_bin, row * size_of(x, 3) + columns.unsqueeze([0, 3]), op.constant(-1, row.dtype))
        return _to_largest(x, merge_axes(merge_axes(element, 2, 5), 0, 2), None, dy)

    return cotangent, None


@dataclass(frozen=True)
class _Samples:
    """Where RoiAlign samples along one spatial axis.

    Attributes:
        coordinates: (samples, regions, bins), in elements; -2, which has no neighbours, for those outside of x.
        drawn: (samples, regions, 1), False for those that a region does not have.
        count: how many a bin of each region has: (regions, 1), at least 1.
    """

    coordinates: Tensor
    drawn: Tensor
    count: Tensor


def _samples(n: Primal, axis: int) -> _Samples:
    op, rois, size = n.op, in_single_precision(n.required(1)), size_of(n.required(0), axis)
    bins, ratio = n.attr("output_height" if axis == 2 else "output_width", 1), n.attr("sampling_ratio", 0)
    zero, one = op.constant(0, rois.dtype), op.constant(1, rois.dtype)
    start, end = (_column(rois, column) * n.attr("spatial_scale", 1.0) for column in (3 - axis, 5 - axis))
    extent = end - start
    if n.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel":
        start = start - 0.5
    else:
        extent = op.Max(extent, one)
    length = extent / bins
    own = op.constant([[ratio]], rois.dtype) if ratio else op.Ceil(length)
    count = op.Max(own, one)
    steps = count_up_to(op, ratio or _largest(count)).cast(rois.dtype).unsqueeze([1, 2])
    at = start + op.constant(range(bins), rois.dtype) * length + (steps + 0.5) * length / count
    seen = op.And(at >= -1, at <= as_float(size, at))
    nearest = op.Min(op.Max(at, zero), as_float(size - 1, at))
    return _Samples(op.Where(seen, nearest, op.constant(-2, at.dtype)), steps < own, count)


def _align_average(n: Primal, dy: Tensor) -> Tensor:
    op, x = n.op, n.required(0)
    height, width = _averages(n, 2), _averages(n, 3)
    images = count_up_to(op, size_of(x, 0)).unsqueeze([1])
    of_image = images.equals(n.required(2).cast(images.dtype)).cast(height.dtype)
    by_image = of_image.unsqueeze([1, 3]) * height.transpose([2, 0, 1])
    by_bin = (in_single_precision(dy) @ width.unsqueeze([1])).transpose([0, 2, 1, 3])
    rows = merge_axes(by_image, 2, 4) @ merge_axes(merge_axes(by_bin, 2, 4), 0, 2)
    return rows.reshape(x.sizes([0, 2, 1, 3])).transpose([0, 2, 1, 3])


def _averages(n: Primal, axis: int) -> Tensor:
    """What averaging the samples of each bin does along *axis*: (regions, bins, size)."""
    op, samples, size = n.op, _samples(n, axis), size_of(n.required(0), axis)
    coordinates = merge_axes(samples.coordinates, 1, 3).transpose([1, 0])
    weights = (samples.drawn.cast(coordinates.dtype) / samples.count).expand_like(samples.coordinates)
    weights = merge_axes(weights, 1, 3).transpose([1, 0]).unsqueeze([1])
    bins = op.Expand(op.constant(0, weights.dtype), join_sizes(op, [size_of(coordinates, 0), 1, size]))
    spread = Interpolation(bins, [coordinates]).spread(weights)
    return spread.reshape(join_sizes(op, [samples.coordinates.sizes([1, 2]), size]))


def _align_largest(n: Primal, dy: Tensor) -> Tensor:
    op, x = n.op, in_single_precision(n.required(0))
    vertical, horizontal = _samples(n, 2), _samples(n, 3)
    drawn = op.And(vertical.drawn.unsqueeze([1, 4]), horizontal.drawn.unsqueeze([0, 3]))
    y, x_ = vertical.coordinates, horizontal.coordinates
    shape = [y.sizes([0]), x_.sizes([0]), y.sizes([1, 2]), x_.sizes([2])]
    lifted = [op.Expand(each, join_sizes(op, shape)) for each in (y.unsqueeze([1, 4]), x_.unsqueeze([0, 3]))]
    neighbours = Interpolation(x, [each.reshape([1, -1]) for each in lifted])

    def by_candidate(each: Tensor) -> Tensor:
        """(1, neighbours, positions) as (samples, samples, neighbours, regions, bins, bins)."""
        return each.reshape(join_sizes(op, [4, *shape])).transpose([1, 2, 0, 3, 4, 5])

    first = n.required(2).cast(ir.DataType.INT64) * x.count([2, 3], dtype=ir.DataType.INT64)
    elements = by_candidate(neighbours.positions) + first.unsqueeze([1, 2])
    elements = op.Where(drawn.unsqueeze([2]), elements, op.constant(-1, elements.dtype))
    weights = by_candidate(neighbours.weights.cast(x.dtype))
    elements, weights = (merge_axes(merge_axes(each, 3, 6), 0, 3) for each in (elements, weights))
    return _to_largest(x, elements, weights, dy)


def _elements_of_bins(n: Primal, rois: Tensor, size: Size, axis: int) -> tuple[Tensor, Tensor]:
    """The elements of each bin of MaxRoiPool along one spatial axis, and which of them are in it.

    Both are (elements, regions, bins), for as many elements as the largest bin has.
    """
    op, bins = n.op, n.attr("pooled_shape")[axis]
    scale = n.attr("spatial_scale", 1.0)
    start, end = (_round(_column(rois, column) * scale) for column in (2 - axis, 4 - axis))
    length = op.Max(end - start + 1, op.constant(1, rois.dtype)) / bins
    index = op.constant(range(bins), rois.dtype)
    last = as_float(size, rois)
    first, stop = (
        op.Min(op.Max(edge + start, op.constant(0, rois.dtype)), last)
        for edge in (op.Floor(index * length), op.Ceil((index + 1) * length))
    )
    steps = count_up_to(op, _largest(stop - first)).cast(rois.dtype).unsqueeze([1, 2])
    elements = first + steps
    return elements.cast(ir.DataType.INT64), elements < stop


def _to_largest(x: Tensor, elements: Tensor, weights: Tensor | None, dy: Tensor) -> Tensor:
    """The cotangent of x where y is the largest of some elements, each multiplied by its weight; 0 if there are none.

    Args:
        x: (batch, channels, height, width).
        elements: the candidates for each of the positions of y, as positions in a channel of the whole batch:
            (candidates, positions), -1 for none. They are compared one after the other.
        weights: of the candidates; 1 if None.
        dy: (regions, channels, bins, bins), of as many positions.
    """
    op = x.op
    flat = merge_axes(x.transpose([1, 0, 2, 3]), 1, 4)
    dy = merge_axes(in_single_precision(dy).transpose([1, 0, 2, 3]), 1, 4)
    lowest = op.full_like(dy, float("-inf"))
    none = op.Expand(op.constant(-1, ir.DataType.INT64), dy.sizes())

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        (best, winner), (number, element, *weight) = states, slices
        value = body.Gather(body.tensor(flat.value), body.Max(element, body.constant(0, element.dtype)), axis=1)
        value = value * weight[0] if weight else value
        better = body.And(element >= 0, value > best)
        return [body.Where(better, value, best), body.Where(better, number, winner)], []

    numbers = count_up_to(op, size_of(elements, 0))
    sequences = [numbers, elements, *([] if weights is None else [weights])]
    (_, winner), _ = scan([lowest, none], sequences, step, reverse=False)
    chosen = op.Max(winner, op.constant(0, winner.dtype))
    to = op.Max(op.GatherElements(elements, chosen, axis=0), op.constant(0, elements.dtype))
    weighted = dy if weights is None else dy * op.GatherElements(weights, chosen, axis=0)
    there = op.Where(winner >= 0, weighted, op.constant(0, dy.dtype))
    dx = add_elements(op.zeros_like(flat), to, there, 1)
    batch, channels, height, width = (size_of(x, axis) for axis in range(4))
    return dx.reshape(join_sizes(op, [channels, batch, height, width])).transpose([1, 0, 2, 3])


def _largest(counts: Tensor) -> Tensor:
    """The largest of the counts as a size, at least 1, also where there are none."""
    op = counts.op
    listed = op.Concat(counts.reshape([-1]), op.constant([1], counts.dtype), axis=0)
    return op.ReduceMax(listed, op.ints([0]), keepdims=1).cast(ir.DataType.INT64)


def _column(rois: Tensor, column: int) -> Tensor:
    """One number of each region: (regions, 1)."""
    return crop(rois, {1: (column, column + 1)})


def _round(x: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero."""
    return x.op.Floor(x.op.Abs(x) + 0.5) * x.op.Sign(x)
