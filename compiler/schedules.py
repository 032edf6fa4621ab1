"""Schedules of the learning rate: the factor on it by step, as Hugging Face transformers defines them."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..passes.errors import InputError

Schedule = Callable[[int], float]
"""From the number of the step, counted from 0, to the factor on the learning rate."""


def constant(*, warmup: int = 0) -> Schedule:
    """1 from the first step, or after *warmup* steps in which it rises linearly from 0.

    The semantics of transformers' `get_constant_schedule_with_warmup`. Raises InputError if *warmup* is negative.
    """
    return _warmed_up(warmup, lambda step: 1.0)


def linear(steps: int, *, warmup: int = 0) -> Schedule:
    """Rises linearly from 0 to 1 in *warmup* steps, then falls linearly to 0 at step number *steps*, and stays there.

    The semantics of transformers' `get_linear_schedule_with_warmup`. Raises InputError if *steps* is less than 1
    or *warmup* negative.
    """
    rest = _steps_after(warmup, steps)
    return _warmed_up(warmup, lambda step: max(0.0, (steps - step) / rest))


def cosine(steps: int, *, warmup: int = 0) -> Schedule:
    """Rises linearly from 0 to 1 in *warmup* steps, then falls to 0 at step number *steps* along half a cosine.

    The semantics of transformers' `get_cosine_schedule_with_warmup` (Loshchilov & Hutter 2017, without restarts).
    Raises InputError if *steps* is less than 1 or *warmup* negative.
    """
    rest = _steps_after(warmup, steps)
    return _warmed_up(warmup, lambda step: 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / rest)))


def _warmed_up(warmup: int, after: Schedule) -> Schedule:
    if warmup < 0:
        raise InputError(f"warmup is a number of steps, not {warmup}")
    return lambda step: step / warmup if step < warmup else after(step)


def _steps_after(warmup: int, steps: int) -> int:
    if steps < 1:
        raise InputError(f"A schedule has at least 1 step, not {steps}")
    return max(1, steps - warmup)
