"""Directional derivatives of <seeds, outputs> by finite differences, and gradients held against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .oracles import Arrays, Feeds, Oracle
from .precision import as_precision

DIRECTIONS = 2
"""Random directions for each input."""

TOLERANCES = {"float64": 1e-6, "float32": 1e-5, "float16": 1e-2}
"""Of a directional derivative, by the gradient's dtype, relative to the norm of its terms."""

NOTHING = 1e-12
"""A slope that counts as zero (what is left of a saturated function), relative to the length of the direction."""


class KinkError(AssertionError):
    """The objective is not smooth at the point, or not defined."""


@dataclass(frozen=True)
class Slope:
    """A directional derivative.

    Attributes:
        value: the central difference.
        jump: by how much one-sided differences on three intervals disagree.
        noise: what rounding in the evaluation can add to them.
        size: the norm of the terms of <seeds, outputs>.
    """

    value: float
    jump: float
    noise: float
    size: float


class Objective:
    """<seeds, outputs> as a function of the feeds. What has the seed 0 counts as 0 even if it is not finite."""

    def __init__(self, oracle: Oracle, seeds: Arrays) -> None:
        self._oracle, self._seeds = oracle, seeds
        self._length = float(np.sqrt(sum(np.sum(np.square(seed, dtype=np.float64)) for seed in seeds.values())))

    def slopes(self, feeds: Feeds, direction: Arrays) -> Iterator[Slope]:
        """The derivative at *feeds* along *direction*, which names the inputs that move, with finer and finer steps."""
        largest = max(float(np.max(np.abs(feeds[name][each != 0]), initial=0)) for name, each in direction.items())
        middle = self._terms(feeds)
        # The values inside a model may be larger than its outputs, as those are of which 1 - y² is next to nothing.
        rounding = self._oracle.rounding * (float(np.sum(np.abs(middle))) + 0.1 * self._length)
        for fineness in (1, 0.1):
            step = fineness * self._oracle.step * max(1.0, 1e-3 * largest)
            before, after, beyond = [
                np.sum(self._terms(_moved(feeds, direction, k * step)) - middle) for k in (-1, 1, 2)
            ]
            onesided = [-before / step, after / step, (beyond - after) / step]
            yield Slope(
                value=float(after - before) / (2 * step),
                jump=float(max(onesided) - min(onesided)) if np.all(np.isfinite(onesided)) else np.inf,
                noise=rounding / step,
                size=float(np.linalg.norm(middle)),
            )

    def _terms(self, feeds: Feeds) -> np.ndarray:
        outputs = self._oracle.evaluate(feeds)
        if any(outputs[name].shape != seed.shape for name, seed in self._seeds.items()):
            raise KinkError("an output changes its shape")
        with np.errstate(invalid="ignore"):
            terms = [np.where(seed == 0, 0, seed * outputs[name]).reshape(-1) for name, seed in self._seeds.items()]
        return np.concatenate(terms)


def compare(objective: Objective, feeds: Feeds, gradients: Arrays) -> None:
    """Hold <gradient, direction> against finite differences, for each of *gradients* in random directions.

    What is not finite in the feeds does not move.

    Raises KinkError where the objective is not smooth, AssertionError where they disagree.
    """
    random = np.random.default_rng(1)
    exact = as_precision(feeds, np.float64)
    for name, gradient in gradients.items():
        moving = np.isfinite(exact[name])
        for _ in range(DIRECTIONS if moving.any() else 0):
            direction = np.where(moving, random.standard_normal(moving.shape), 0)
            terms = np.where(moving, gradient.astype(np.float64), 0) * direction
            size = float(np.linalg.norm(terms)) if np.all(np.isfinite(terms)) else 0.0
            nothing = NOTHING * float(np.linalg.norm(direction))
            for slope in objective.slopes(exact, {name: direction}):
                tolerance = TOLERANCES.get(gradient.dtype.name, TOLERANCES["float16"])
                bound = tolerance * (size + abs(slope.value) + 0.1 * slope.size) + slope.noise + nothing
                if slope.jump <= 3 * bound < np.inf:
                    break
            else:
                raise KinkError(
                    f"along {name} one-sided differences around {slope.value:.4g} differ by {slope.jump:.3g}"
                )
            error = abs(float(terms.sum()) - slope.value)
            assert error <= bound, (
                f"the gradient of {name} is {terms.sum():.6g} along a direction in which finite differences give "
                f"{slope.value:.6g}: error {error:.3g} > {bound:.3g}"
            )


def _moved(feeds: Feeds, direction: Arrays, step: float) -> Mapping[str, Any]:
    moving = {n: np.where(each == 0, feeds[n], feeds[n] + step * each) for n, each in direction.items()}
    return {**feeds, **moving}
