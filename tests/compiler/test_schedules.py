"""Schedules, step by step against those of transformers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers

from onnxgrad.compiler import schedules
from onnxgrad.compiler.schedules import Schedule
from onnxgrad.passes.errors import InputError

Make = Callable[[torch.optim.Optimizer, int, int], torch.optim.lr_scheduler.LRScheduler]


def expected(make: Make, steps: int, warmup: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer, warmup, steps)
    factors = []
    for _ in range(steps + 3):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0), (20, 5), (20, 20), (1, 0), (7, 1), (5, 9)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda steps, warmup: schedules.constant(warmup=warmup),
            lambda optimizer, warmup, steps: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
        ),
        (lambda steps, warmup: schedules.linear(steps, warmup=warmup), transformers.get_linear_schedule_with_warmup),
        (lambda steps, warmup: schedules.cosine(steps, warmup=warmup), transformers.get_cosine_schedule_with_warmup),
    ],
    ids=["constant", "linear", "cosine"],
)
def test_agrees_with_transformers(ours: Callable[[int, int], Schedule], theirs: Make, steps: int, warmup: int) -> None:
    schedule = ours(steps, warmup)
    actual = [schedule(step) for step in range(steps + 3)]
    assert actual == pytest.approx(expected(theirs, steps, warmup), rel=1e-12, abs=1e-15)


def test_constant_is_one_without_warmup() -> None:
    assert [schedules.constant()(step) for step in (0, 1, 1000)] == [1.0, 1.0, 1.0]


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="warmup"):
        schedules.constant(warmup=-1)
    with pytest.raises(InputError, match="at least 1 step"):
        schedules.linear(0)
    with pytest.raises(InputError, match="at least 1 step"):
        schedules.cosine(-3)
