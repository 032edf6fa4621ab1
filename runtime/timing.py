"""Interleaved timing: several actions measured in turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

LEAST_SECONDS = 0.02
"""How long a timing lasts at least: a quicker action is repeated. By then the threads of the session that ran before,
which wait for more work by spinning, are asleep."""


@dataclass(frozen=True)
class Spread:
    """The median and the quartiles of a measurement's rounds."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        lower, median, upper = np.percentile(values, [25, 50, 75])
        return cls(float(lower), float(median), float(upper))


def time_in_turns(
    actions: Mapping[str, Callable[[], object]], rounds: int, on_round: Callable[[], None] | None = None
) -> dict[str, np.ndarray]:
    """Seconds that one call of each of *actions* takes, for each of the rounds.

    Each round measures every action, starting with another one each time. An action that is repeated to last
    `LEAST_SECONDS` is called once more before, without being timed.
    """
    repeats = {name: _repeats(action) for name, action in actions.items()}
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            action, times = actions[name], repeats[name]
            if times > 1:
                action()
            begin = time.perf_counter()
            for _ in range(times):
                action()
            seconds[name].append((time.perf_counter() - begin) / times)
        if on_round is not None:
            on_round()
    return {name: np.array(values) for name, values in seconds.items()}


def _repeats(action: Callable[[], object]) -> int:
    action()
    begin = time.perf_counter()
    action()
    return math.ceil(LEAST_SECONDS / max(time.perf_counter() - begin, 1e-7))
