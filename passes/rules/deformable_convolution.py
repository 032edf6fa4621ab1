"""The rule of DeformConv (J. Dai et al., "Deformable convolutional networks", 2017; version 2 with a mask, 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import numpy as np

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .interpolation import Interpolation, in_single_precision
from .scattering import merge_axes
from .sizes import Size, count_up_to, join_sizes, size_of
from .slicing import crop

rules = Registry()


@rules.vjp("DeformConv", inputs=(0, 1, 2, 3, 4))
def deform_conv(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """y = W (m ∘ v) + b: dv = m ∘ Wᵀ dy goes to x and the offsets, dm = Σ v ∘ Wᵀ dy, dW = dy (m ∘ v)ᵀ, db = Σ dy.

    The columns v are x, interpolated linearly for each tap of the kernel and each position of y. At an element the
    slope is that to its right.
    """
    columns = _Columns(n, dy)
    return (
        lambda: columns.interpolation.spread(columns.dv).reshape_like(n.required(0)),
        lambda: columns.dw,
        lambda: columns.doffset,
        lambda: dy.sum([axis for axis in range(dy.rank) if axis != 1]),
        lambda: columns.dmask,
    )


class _Columns:
    """The columns v of the convolution and the cotangents that are made with them.

    v is (batch · offset groups, channels of one, taps · positions); each image's, for the product with W, is
    (groups, channels of one · taps, positions).
    """

    def __init__(self, n: Primal, dy: Tensor) -> None:
        self._n = n
        self._dy = merge_axes(in_single_precision(dy), 2, dy.rank)
        self._x, self._w, self._offset = (in_single_precision(n.required(index)) for index in range(3))
        self._rank = self._x.rank - 2
        self._kernel = _kernel(n)
        self._taps = prod(self._kernel)
        self._group: int = n.attr("group", 1)
        self._offset_group: int = n.attr("offset_group", 1)

    @cached_property
    def interpolation(self) -> Interpolation:
        x = self._x
        spatial = x.sizes(range(2, x.rank))
        grouped = join_sizes(x.op, [self._batches, _share(size_of(x, 1), self._offset_group), spatial])
        return Interpolation(x.reshape(grouped), [self._coordinate(axis) for axis in range(self._rank)])

    @cached_property
    def dv(self) -> Tensor:
        return self._dmv if self._mask is None else self._dmv * self._mask

    @property
    def dw(self) -> Tensor:
        mv = self._v if self._mask is None else self._v * self._mask
        outer = self._dy_by_group @ mv.reshape(self._by_group).swap_last_two()
        return outer.sum([0]).reshape_like(self._w)

    @property
    def doffset(self) -> Tensor:
        op, offset = self._x.op, self._offset
        lists = join_sizes(op, [self._batches, self._taps, 1, size_of(self._dy, 2)])
        slopes = [slope.reshape(lists) for slope in self.interpolation.slopes(self.dv)]
        return op.Concat(*slopes, axis=2).reshape_like(offset)

    @property
    def dmask(self) -> Tensor:
        return (self._dmv * self._v).sum([1]).reshape_like(self._n.required(4))

    @cached_property
    def _v(self) -> Tensor:
        return self.interpolation.read()

    @cached_property
    def _dmv(self) -> Tensor:
        """Wᵀ dy, in the shape of v."""
        w, op = self._w, self._x.op
        rows = _share(size_of(w, 0), self._group)
        matrices = w.reshape(join_sizes(op, [self._group, rows, size_of(w, 1) * self._taps]))
        channels = _share(size_of(self._x, 1), self._offset_group)
        shape = join_sizes(op, [self._batches, channels, size_of(self._dy, 2) * self._taps])
        return (matrices.swap_last_two() @ self._dy_by_group).reshape(shape)

    @cached_property
    def _dy_by_group(self) -> Tensor:
        """dy: (batch, groups, channels of one, positions)."""
        dy, rows = self._dy, _share(size_of(self._dy, 1), self._group)
        return dy.reshape(join_sizes(dy.op, [size_of(dy, 0), self._group, rows, size_of(dy, 2)]))

    @cached_property
    def _by_group(self) -> Tensor:
        """The shape of the columns for the product with W."""
        w, dy = self._w, self._dy
        return join_sizes(dy.op, [size_of(dy, 0), self._group, size_of(w, 1) * self._taps, size_of(dy, 2)])

    @cached_property
    def _mask(self) -> Tensor | None:
        """The mask: (batch · offset groups, 1, taps · positions)."""
        mask = self._n.input(4)
        if mask is None:
            return None
        shape = join_sizes(mask.op, [self._batches, 1, size_of(self._dy, 2) * self._taps])
        return in_single_precision(mask).reshape(shape)

    @property
    def _batches(self) -> Size:
        return size_of(self._x, 0) * self._offset_group

    def _coordinate(self, axis: int) -> Tensor:
        """Where along a spatial axis each tap of each position reads: (batch · offset groups, taps · positions)."""
        op, n, offset, rank = self._x.op, self._n, self._offset, self._rank
        stride, dilation = n.attr("strides", [1] * rank)[axis], n.attr("dilations", [1] * rank)[axis]
        within = np.indices(self._kernel)[axis].reshape(-1) * dilation - n.attr("pads", [0] * 2 * rank)[axis]
        tap = op.constant(within.reshape(-1, *[1] * rank), offset.dtype)
        start = count_up_to(op, size_of(offset, axis + 2)).cast(offset.dtype) * stride
        regular = start.unsqueeze(range(1, rank - axis)) + tap
        lists = join_sizes(op, [self._batches, self._taps, rank, offset.sizes(range(2, offset.rank))])
        moved = crop(offset.reshape(lists), {2: (axis, axis + 1)}).squeeze([2])
        return merge_axes(moved + regular, 1, moved.rank)


def _kernel(n: Primal) -> list[int]:
    given = n.attr("kernel_shape")
    sizes = [dim for dim in n.required(1).shape[2:] if isinstance(dim, int)] if given is None else list(given)
    if len(sizes) < n.required(1).rank - 2:
        raise n.refuse("the size of its kernel is unknown; give it the attribute kernel_shape")
    return sizes


def _share(size: Size, parts: int) -> Size:
    """The size of one of so many equal parts."""
    return size // parts if isinstance(size, int) else size / parts
