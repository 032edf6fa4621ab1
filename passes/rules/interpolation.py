"""Interpolation at computed positions, and its adjoints.

A value between the elements of a tensor is a weighted sum of the elements around it, its taps: along each axis
1 for the nearest element, 2 for linear and 4 for cubic interpolation (R. Keys, "Cubic convolution interpolation for
digital image processing", 1981, with a = -0.75). The weight of a tap is a polynomial in the distance from the first
element to the left; over several axes it is the product of those along each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import onnx_ir as ir

from ..tape import Tensor
from .scattering import add_elements, merge_axes
from .sizes import Size, join_sizes, size_of

_POLYNOMIALS = {
    "nearest": [[1]],
    "linear": [[1, -1], [0, 1]],
    "cubic": [[0, -0.75, 1.5, -0.75], [1, 0, -2.25, 1.25], [0, 0.75, 1.5, -1.25], [0, 0, -0.75, 0.75]],
}
"""By mode the weight of each tap, a polynomial in the distance: its coefficients, the constant one first."""

_FIRST_TAP = {"nearest": 0, "linear": 0, "cubic": -1}

Place = Callable[[Tensor, Size], Tensor]
"""Moves taps (floats that are integers) along an axis of given size."""


class Interpolation:
    """y[b, c, p] = Σ w[b, q, p] x[b, c, q], over the taps q around position p; those outside of x count as 0.

    What has channels is computed for one tap after the other, to need no more memory than the operator itself.

    Args:
        x: (batch, channels, d₁, …, dᵣ), in float32 or float64.
        coordinates: for each of the r axes a (batch, positions) tensor, in elements from the first one.
        mode: "nearest", "linear" or "cubic".
        place: where the taps are taken from, if not from where they lie.
    """

    def __init__(
        self, x: Tensor, coordinates: Sequence[Tensor], mode: str = "linear", place: Place | None = None
    ) -> None:
        self._x = x
        self._sizes = [size_of(x, axis) for axis in range(2, x.rank)]
        self._taps = [_Taps(each, size, mode, place) for each, size in zip(coordinates, self._sizes, strict=True)]

    @cached_property
    def positions(self) -> Tensor:
        """Which element of a flattened channel each tap is: (batch, taps, positions)."""
        flat = self._taps[0].positions
        for taps, size in zip(self._taps[1:], self._sizes[1:], strict=True):
            flat = merge_axes((flat * size).unsqueeze([2]) + taps.positions.unsqueeze([1]), 1, 3)
        return flat

    @cached_property
    def weights(self) -> Tensor:
        """The weight of each tap: (batch, taps, positions)."""
        return _outer([taps.weights for taps in self._taps])

    def read(self) -> Tensor:
        """y: (batch, channels, positions)."""
        weights = [weight.cast(self._x.dtype) for weight in _split(self.weights)]
        first, *rest = [elements * weight for elements, weight in zip(self._elements, weights, strict=True)]
        return sum(rest, start=first)

    def spread(self, dy: Tensor) -> Tensor:
        """The cotangent of x: that of y added, weighted, to the elements that were read."""
        total = self._x.op.zeros_like(self._flat_x)
        for indices, weight in zip(self._indices, _split(self.weights), strict=True):
            total = add_elements(total, indices, dy * weight.cast(dy.dtype), 2)
        return total.reshape_like(self._x)

    def slopes(self, dy: Tensor) -> list[Tensor]:
        """The cotangent of each coordinate: Σ dy x ∂w over channels and taps, (batch, positions)."""
        products = [(dy * elements).sum([1], keepdims=True) for elements in self._elements]
        by_tap = dy.op.Concat(*products, axis=1).cast(self._taps[0].weights.dtype)
        return [
            (by_tap * _outer([each.slopes if each is along else each.weights for each in self._taps])).sum([1])
            for along in self._taps
        ]

    @cached_property
    def _flat_x(self) -> Tensor:
        return merge_axes(self._x, 2, self._x.rank)

    @cached_property
    def _indices(self) -> Sequence[Tensor]:
        """The position of each tap for every channel: (batch, channels, positions)."""
        op, flat = self._x.op, self.positions
        shape = join_sizes(op, [size_of(flat, 0), size_of(self._x, 1), size_of(flat, 2)])
        return [op.Expand(each, shape) for each in _split(flat)]

    @cached_property
    def _elements(self) -> Sequence[Tensor]:
        """The element that each tap is: (batch, channels, positions)."""
        return [self._x.op.GatherElements(self._flat_x, indices, axis=2) for indices in self._indices]


class _Taps:
    """The taps along one axis: (batch, taps, positions)."""

    def __init__(self, coordinate: Tensor, size: Size, mode: str, place: Place | None) -> None:
        op, dtype = coordinate.op, coordinate.dtype
        self._polynomials = np.array(_POLYNOMIALS[mode])
        start = op.Round(coordinate) if mode == "nearest" else op.Floor(coordinate)
        self._distance = (coordinate - start).unsqueeze([1])
        offsets = _FIRST_TAP[mode] + np.arange(len(self._polynomials))
        taps = start.unsqueeze([1]) + op.constant(offsets[:, None], dtype)
        taps = taps if place is None else place(taps, size)
        self._inside = op.And(taps >= 0, taps <= as_float(size - 1, taps))
        self.positions = op.Where(self._inside, taps, op.constant(0, dtype)).cast(ir.DataType.INT64)

    @cached_property
    def weights(self) -> Tensor:
        """The weights; 0 outside of the axis."""
        return self._inside_value_of(self._polynomials)

    @cached_property
    def slopes(self) -> Tensor:
        """The derivatives of the weights with respect to the coordinate."""
        return self._inside_value_of(self._polynomials[:, 1:] * np.arange(1, self._polynomials.shape[1]))

    def _inside_value_of(self, polynomials: np.ndarray) -> Tensor:
        """The value of each tap's polynomial, by Horner's rule."""
        op, t = self._distance.op, self._distance
        *rest, value = [op.constant(coefficients[:, None], t.dtype) for coefficients in polynomials.T]
        for coefficients in reversed(rest):
            value = value * t + coefficients
        return op.Where(self._inside, value, op.constant(0, t.dtype))


def _outer(factors: Sequence[Tensor]) -> Tensor:
    """Products of (batch, taps, positions) factors, for every choice of a tap of each, as one such tensor."""
    result = factors[0]
    for factor in factors[1:]:
        result = merge_axes(result.unsqueeze([2]) * factor.unsqueeze([1]), 1, 3)
    return result


def _split(x: Tensor) -> Sequence[Tensor]:
    """(batch, taps, positions) as one (batch, 1, positions) a tap."""
    count = x.shape[1]
    assert isinstance(count, int)
    return [x] if count == 1 else x.op.emit_many("Split", x, x.op.ints([1] * count), outputs=count, axis=1)


def as_float(size: Size, like: Tensor) -> Tensor:
    """A size in the dtype of *like*, to compute coordinates with."""
    return like.op.constant(size, like.dtype) if isinstance(size, int) else size.cast(like.dtype)


def in_single_precision(x: Tensor) -> Tensor:
    """*x*, float16 and bfloat16 as float32: coordinates need the precision, and only that can be scatter-added."""
    return x.cast(ir.DataType.FLOAT) if x.dtype.bitwidth < 32 else x
