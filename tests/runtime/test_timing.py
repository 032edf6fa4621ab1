"""Measuring in turns."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from onnxgrad.runtime.timing import LEAST_SECONDS, Spread, time_in_turns


def test_each_round_measures_everything_and_starts_elsewhere() -> None:
    calls: list[str] = []

    def slow(name: str) -> Callable[[], None]:
        def action() -> None:
            calls.append(name)
            time.sleep(1.2 * LEAST_SECONDS)

        return action

    rounds: list[int] = []
    seconds = time_in_turns({name: slow(name) for name in "abc"}, 3, lambda: rounds.append(len(calls)))
    assert calls[:6] == list("aabbcc"), "warmed up"
    assert calls[6:] == list("abcbcacab")
    assert rounds == [9, 12, 15]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert all((values > LEAST_SECONDS).all() for values in seconds.values())


def test_a_quick_action_is_timed_over_many_calls_of_it() -> None:
    count = 0

    def action() -> None:
        nonlocal count
        count += 1
        time.sleep(0.001)

    seconds = time_in_turns({"quick": action}, 2)["quick"]
    assert 8 < count < 100
    assert (seconds >= 0.001).all()
    assert (seconds < 0.01).all()


def test_spread() -> None:
    spread = Spread.of(np.array([5.0, 1.0, 2.0, 4.0, 3.0]))
    assert (spread.lower, spread.median, spread.upper) == pytest.approx((2.0, 3.0, 4.0))
