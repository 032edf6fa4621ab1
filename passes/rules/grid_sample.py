"""Rules of spatial transformers: GridSample, AffineGrid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .interpolation import Interpolation, as_float, in_single_precision
from .scattering import merge_axes
from .sizes import Size, join_sizes, larger, size_of
from .slicing import crop

rules = Registry()


@rules.vjp("GridSample", inputs=(0, 1))
def grid_sample(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = dy added, weighted, to the elements that were read; dgrid = Σ dy x ∂w.

    The conventions are those of PyTorch's grid_sample: the gradient of the grid is 0 in mode "nearest", and where the
    padding "border" or "reflection" brings a coordinate to the first or last element, with the end points.
    """
    sampling = _Sampling(n)

    def cotangent_x() -> Tensor:
        return sampling.interpolation.spread(_flat(dy))

    def cotangent_grid() -> Tensor:
        slopes = sampling.interpolation.slopes(_flat(dy))
        along = [slope * each.slope for slope, each in zip(slopes, sampling.coordinates, strict=True)]
        return n.op.Concat(*[each.unsqueeze([2]) for each in reversed(along)], axis=2).reshape_like(n.required(1))

    return cotangent_x, None if n.attr("mode", "linear") == "nearest" else cotangent_grid


def _flat(dy: Tensor) -> Tensor:
    """(batch, channels, d₁, …) as (batch, channels, positions)."""
    return merge_axes(in_single_precision(dy), 2, dy.rank)


class _Sampling:
    """The forward node as an interpolation at coordinates that are counted in elements."""

    def __init__(self, n: Primal) -> None:
        self._n = n
        self._x = in_single_precision(n.required(0))
        self._mode: str = n.attr("mode", "linear")
        self._padding: str = n.attr("padding_mode", "zeros")
        self._aligned = bool(n.attr("align_corners", 0))

    @cached_property
    def coordinates(self) -> list[_Coordinate]:
        """One for each spatial axis; the grid has that of the last axis first."""
        grid, rank = in_single_precision(self._n.required(1)), self._x.rank - 2
        listed = merge_axes(grid, 1, rank + 1)
        return [
            _Coordinate(
                crop(listed, {2: (rank - 1 - axis, rank - axis)}).squeeze([2]),
                size_of(self._x, axis + 2),
                self._padding if self._mode == "linear" else "zeros",
                self._aligned,
            )
            for axis in range(rank)
        ]

    @cached_property
    def interpolation(self) -> Interpolation:
        place = None if self._mode == "linear" or self._padding == "zeros" else self._place
        return Interpolation(self._x, [each.value for each in self.coordinates], self._mode, place)

    def _place(self, tap: Tensor, size: Size) -> Tensor:
        return _padded(tap, size, self._padding, self._aligned)[0]


class _Coordinate:
    """A coordinate of the grid in elements from the first: its *value*, and its *slope* by the normalized one."""

    def __init__(self, normalized: Tensor, size: Size, padding: str, aligned: bool) -> None:
        length = as_float(size, normalized)
        if aligned:
            value, slope = (normalized + 1) / 2 * (length - 1), (length - 1) / 2
        else:
            value, slope = ((normalized + 1) * length - 1) / 2, length / 2
        self.value, self.slope = value, slope
        if padding != "zeros":
            self.value, by_padding = _padded(value, size, padding, aligned)
            self.slope = by_padding * slope


def _padded(x: Tensor, size: Size, padding: str, aligned: bool) -> tuple[Tensor, Tensor]:
    """Bring coordinates into the axis as *padding* says, with the derivative of doing so."""
    op = x.op
    zero, one, last = op.constant(0, x.dtype), op.constant(1, x.dtype), as_float(size - 1, x)
    slope = one
    if padding == "reflection":
        edge = 0.0 if aligned else 0.5
        period = as_float(larger(size * 2 - 2, 1) if aligned else size * 2, x)
        from_edge = x + edge if edge else x
        there = from_edge - op.Floor(from_edge / period) * period
        back = period - there
        x = op.Min(there, back) - edge if edge else op.Min(there, back)
        slope = op.Where(there < back, one, -one)
    within = op.And(x > 0, x < last)
    return op.Min(op.Max(x, zero), last), op.Where(within, slope, zero)


@rules.vjp("AffineGrid", inputs=(0,))
def affine_grid(n: Primal, dy: Tensor) -> Cotangent:
    """dtheta = dyᵀ · [base, 1], where base is the grid of the identity: each position's own coordinates."""
    op, theta, rank = n.op, n.required(0), dy.rank - 2

    def cotangent() -> Tensor:
        identity = op.constant(np.eye(rank, rank + 1)[None], in_single_precision(theta).dtype)
        sizes = join_sizes(op, [1, 1, dy.sizes(range(1, rank + 1))])
        base = op.AffineGrid(identity, sizes, align_corners=n.attr("align_corners", 0)).reshape([1, -1, rank])
        listed = merge_axes(dy, 1, rank + 1)
        linear = listed.swap_last_two() @ base.cast(dy.dtype)
        return op.Concat(linear, listed.sum([1]).unsqueeze([2]), axis=2)

    return cotangent
