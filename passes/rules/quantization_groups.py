"""The elements that share one scale of a quantized tensor (ONNX spec, QuantizeLinear).

A scalar scale is for the whole tensor. A 1-D scale has an element for each slice along an axis. With a block size it
has one for each block of that many elements along the axis, the last of which may be shorter, and its other sizes are
those of the tensor.
"""

from __future__ import annotations

from ..broadcasting import unbroadcast
from ..registry import Primal
from ..tape import Tensor
from .sizes import join_sizes, size_of
from .slicing import crop, zero_pad


def spread_over_groups(n: Primal, per_group: Tensor, x: Tensor) -> Tensor:
    """*per_group*, which has the shape of the scale of *n*, in a shape that broadcasts to that of *x*."""
    axis, block = _axis(n, x), n.attr("block_size", 0)
    if not block:
        return _lift(per_group, x, axis)
    repeated = per_group.unsqueeze([axis + 1])
    sizes = [size_of(per_group, each) for each in range(x.rank)]
    repeated = x.op.Expand(repeated, join_sizes(x.op, [*sizes[: axis + 1], block, *sizes[axis + 1 :]]))
    sizes[axis] = sizes[axis] * block
    return crop(repeated.reshape(join_sizes(x.op, sizes)), {axis: (0, size_of(x, axis))})


def sum_over_groups(n: Primal, values: Tensor, scale: Tensor) -> Tensor:
    """The sums of *values* over the elements of each group, in the shape of *scale*."""
    axis, block = _axis(n, values), n.attr("block_size", 0)
    if not block:
        return unbroadcast(values, _lift(scale, values, axis)).reshape_like(scale)
    groups = size_of(scale, axis)
    whole = zero_pad(values, {axis: (0, groups * block - size_of(values, axis))})
    sizes = [size_of(values, each) for each in range(values.rank)]
    return whole.reshape(join_sizes(values.op, [*sizes[:axis], groups, block, *sizes[axis + 1 :]])).sum([axis + 1])


def _axis(n: Primal, x: Tensor) -> int:
    return int(n.attr("axis", 1)) % x.rank if x.rank > 1 else 0


def _lift(per_group: Tensor, x: Tensor, axis: int) -> Tensor:
    if per_group.rank == 0:
        return per_group
    return per_group.unsqueeze([other for other in range(x.rank) if other != axis])
