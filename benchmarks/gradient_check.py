"""Whether a peer's gradients are PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

TOLERANCE = 1e-3
"""Of the relative error; float32 rounding in sums of 10⁵ terms stays below 10⁻⁴."""


def largest_error(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error ‖actual − expected‖ / ‖expected‖ of a gradient, and the parameter it is of.

    Some gradients are zero because their terms cancel (softmax does not see a key's bias) and only rounding is left of
    them, so no norm counts as less than 10⁻⁴ of the largest. A gradient that is missing or misshapen has error ∞.
    """
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in expected.items()}
    floor = 1e-4 * max(norms.values())
    errors = {}
    for name, gradient in expected.items():
        given = actual.get(name)
        if given is None or given.shape != gradient.shape or not np.isfinite(given).all():
            errors[name] = float("inf")
        else:
            errors[name] = float(np.linalg.norm(given - gradient)) / max(norms[name], floor)
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst
