"""The learning rate's course."""

from __future__ import annotations

from ...compiler import schedules
from ...passes.errors import InputError
from .optimizer import Optimizer


class LinearLRScheduler:
    """`onnxruntime.training.api.LinearLRScheduler`: up from 0 to *initial_lr*, then down to 0, by the steps made."""

    def __init__(self, optimizer: Optimizer, warmup_step_count: int, total_step_count: int, initial_lr: float) -> None:
        """Raises InputError if the warm-up is negative or takes the whole training."""
        if warmup_step_count >= total_step_count:
            raise InputError(f"A warm-up of {warmup_step_count} steps is no part of {total_step_count}")
        self._optimizer, self._rate = optimizer, initial_lr
        self._factor = schedules.linear(total_step_count, warmup=warmup_step_count)

    def step(self) -> None:
        """Set the learning rate of the optimizer's next step."""
        self._optimizer.set_learning_rate(self._rate * self._factor(self._optimizer.steps))
