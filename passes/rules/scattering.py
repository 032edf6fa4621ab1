"""Putting and adding values at computed positions: the adjoints of reading at computed positions.

Repeated positions are added up by ScatterElements, never by ScatterND: ONNX Runtime's CPU kernel of ScatterND
runs on several threads without regard to positions that occur twice, and loses updates.
"""

from __future__ import annotations

from itertools import accumulate
from math import prod
from operator import mul

import onnx_ir as ir

from ..tape import Tensor
from .sizes import join_sizes, size_of

MOST_COMPARED = 64
"""Beyond so many elements to choose from, scattering is faster than comparing all with the index."""
LEAST_BEHIND = 64
"""The fewest elements behind the axis with which ONNX Runtime is fast at broadcasting along it."""
NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
"""Types in which sums of many are too inexact, and which ONNX Runtime does not scatter with a reduction."""


def add_elements(data: Tensor, indices: Tensor, updates: Tensor, axis: int) -> Tensor:
    """*data* with *updates* added at *indices* along *axis* (ScatterElements' convention); indices may repeat.

    float16 and bfloat16 are added up in float32, which is more exact, and the only type that ONNX Runtime can
    scatter-add.
    """
    if data.dtype not in NARROW:
        return data.op.ScatterElements(data, indices, updates, axis=axis, reduction="add")
    wide = ir.DataType.FLOAT
    return add_elements(data.cast(wide), indices, updates.cast(wide), axis).cast(data.dtype)


def add_slices(data: Tensor, positions: Tensor, updates: Tensor, axis: int) -> Tensor:
    """*data* with the slices of *updates* along *axis* added at *positions* (1-D); positions may repeat."""
    return add_elements(data, _along(positions, updates, axis), updates, axis)


def put_slices(data: Tensor, positions: Tensor, updates: Tensor, axis: int) -> Tensor:
    """*data* with the slices of *updates* along *axis* put at *positions* (1-D, none twice)."""
    return data.op.ScatterElements(data, _along(positions, updates, axis), updates, axis=axis)


def chosen_elements(x: Tensor, indices: Tensor, axis: int) -> Tensor | None:
    """Which elements of *x* GatherElements reads at *indices*, one of each row along *axis*: bool, of the shape of *x*.

    None where ScatterElements, which runs on one thread, is expected to be faster than such a mask, or *indices* name
    more or fewer. As ever, ONNX Runtime fails on the CPU where an index is out of range.
    """
    size, behind = x.shape[axis], x.shape[axis + 1 :]
    one_each = indices.shape == (*x.shape[:axis], 1, *x.shape[axis + 1 :]) and None not in indices.shape
    known = [dim for dim in behind if isinstance(dim, int)]
    long = len(known) < len(behind) or prod(known) >= LEAST_BEHIND
    if not one_each or not isinstance(size, int) or size > MOST_COMPARED or not behind or not long:
        return None
    op = x.op
    numbers = op.constant(range(size), ir.DataType.UINT8)
    return op.Gather(numbers, indices, axis=0).equals(numbers.reshape([size, *[1] * (x.rank - axis - 1)]))


def flat_positions(x: Tensor) -> Tensor:
    """0, 1, 2, … in the shape of *x*: the position of each element in row-major order."""
    op = x.op
    zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
    return op.Range(zero, x.count(dtype=ir.DataType.INT64), one).reshape_like(x)


def put_at_flat_positions(like: Tensor, positions: Tensor, updates: Tensor) -> Tensor:
    """Zeros of the shape of *like*, with *updates* put at row-major *positions* (none twice)."""
    zeros = like.op.zeros_like(like).reshape([-1])
    return put_slices(zeros, positions.reshape([-1]), updates.reshape([-1]), 0).reshape_like(like)


def merge_axes(x: Tensor, start: int, stop: int) -> Tensor:
    """*x* with the axes from *start* up to *stop* made into one; a new axis of size 1 if there are none."""
    if stop - start == 1:
        return x
    if stop == start:
        return x.unsqueeze([start])
    merged = x.count(range(start, stop), dtype=ir.DataType.INT64).reshape([1])
    return x.reshape(join_sizes(x.op, [x.sizes(range(start)), merged, x.sizes(range(stop, x.rank))]))


def _along(positions: Tensor, updates: Tensor, axis: int) -> Tensor:
    """*positions* (1-D) repeated to the shape of *updates*, as ScatterElements wants them."""
    if updates.rank == 1:
        return positions
    lifted = positions.unsqueeze([other for other in range(updates.rank) if other != axis])
    return lifted.op.Expand(lifted, updates.sizes())


def row_positions(x: Tensor, indices: Tensor, depth: int, batch_axes: int = 0) -> Tensor:
    """Which row each index tuple of *indices* names, once the indexed axes of *x* are merged into one.

    The last axis of *indices* holds the coordinates along the *depth* axes of *x* that follow *batch_axes* (the
    convention of GatherND); the merged axis takes the batch axes in too. The result has the shape of *indices*
    without its last axis.
    """
    op = x.op
    indexed = range(batch_axes, batch_axes + depth)
    strides = list(accumulate((size_of(x, axis) for axis in reversed(indexed)), mul, initial=1))
    from_start = op.Where(indices < 0, indices + x.sizes(indexed), indices)
    positions = (from_start * join_sizes(op, strides[-2::-1])).sum([-1])
    if not batch_axes:
        return positions
    count = x.count(range(batch_axes), dtype=ir.DataType.INT64)
    batch = op.Range(op.constant(0, count.dtype), count, op.constant(1, count.dtype))
    ones = [1] * (positions.rank - batch_axes)
    starts = batch * join_sizes(op, strides[-1:])
    return positions + starts.reshape(join_sizes(op, [x.sizes(range(batch_axes)), *ones]))
