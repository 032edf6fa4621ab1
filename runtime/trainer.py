"""The training loop: batches in, a trained session out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..compiler.schedules import Schedule, constant
from ..passes.errors import Error, InputError
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .feeds import Array
from .metrics import Metric
from .optimizer import Optimizer
from .session import Session

Batch = Mapping[str, Array]


@runtime_checkable
class Epochs(Protocol):
    """Batches that come in another order each epoch (`Batches`, PyTorch's DistributedSampler convention)."""

    def set_epoch(self, epoch: int) -> None: ...


@dataclass(frozen=True)
class StepReport:
    """One optimizer step: its number from 1, the epoch from 0, the mean loss of its micro-batches, the learning
    rate, the gradient norm before clipping (None if it is not computed), and the mean metrics."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Means over a data set: the loss (None if the program has none) and the metrics."""

    loss: float | None
    metrics: Mapping[str, float]


@dataclass
class History:
    """What happened: every step, and the evaluation after each epoch (if there is validation data)."""

    steps: list[StepReport] = field(default_factory=list)
    evaluations: list[tuple[int, Evaluation]] = field(default_factory=list)


class Trainer:
    """Trains the parameters of *session* with *optimizer*.

    Args:
        accumulate: micro-batches a step; their gradients are averaged.
        clip_norm: the largest global norm of the gradient (`torch.nn.utils.clip_grad_norm_`).
        clip_value: the largest magnitude of a gradient element (`clip_grad_value_`); applied first.
        schedule: the factor on the learning rate by step (`onnxgrad.schedules`; constant if None).
        metrics: computed from the outputs and the batch, by the names under which they are reported.
        checkpoint: a path to write checkpoints to, each epoch and every *checkpoint_every* steps. `resume`
            continues from it.
        on_step: called after each step.
    """

    def __init__(
        self,
        session: Session,
        optimizer: Optimizer,
        *,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        schedule: Schedule | None = None,
        metrics: Mapping[str, Metric] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        if session.program.signature.loss is None:
            raise InputError("The program has no loss to train on; compile it with loss=…")
        if accumulate < 1:
            raise InputError(f"accumulate is at least 1, not {accumulate}")
        self.session = session
        self.optimizer = optimizer
        self.progress = Progress()
        self._loss = session.program.signature.loss
        self._accumulate = accumulate
        self._clip_norm, self._clip_value = clip_norm, clip_value
        self._schedule = schedule or constant()
        self._metrics = dict(metrics or {})
        self._checkpoint, self._checkpoint_every = checkpoint, checkpoint_every
        self._on_step = on_step

    def fit(self, batches: Iterable[Batch], *, epochs: int = 1, validation: Iterable[Batch] | None = None) -> History:
        """Train for *epochs* in all, counting those of a resumed training.

        Args:
            batches: dicts of arrays by the names of the graph inputs; iterated over once an epoch.
            validation: evaluated after each epoch.

        Raises InputError when a batch does not fit the graph, and Error when the loss is no number any more; both
        name the step. Parameters are then as after the last good step.
        """
        history = History()
        while self.progress.epoch < epochs:
            epoch = self.progress.epoch
            if isinstance(batches, Epochs):
                batches.set_epoch(epoch)
            done = self.progress.batch
            for micro_batches in _grouped(_skipped(batches, done), self._accumulate):
                history.steps.append(self._step(micro_batches, epoch))
                done += len(micro_batches)
                self.progress = Progress(history.steps[-1].step, epoch, done)
                if self._checkpoint_every and self.progress.step % self._checkpoint_every == 0:
                    self.save_checkpoint()
            if not done:
                raise InputError(f"Epoch {epoch} has no batches; an iterator can be used for one epoch only")
            self.progress = Progress(self.progress.step, epoch + 1, 0)
            self.save_checkpoint()
            if validation is not None:
                history.evaluations.append((self.progress.step, self.evaluate(validation)))
        return history

    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """The mean loss and metrics over *batches*, each batch weighted by its samples."""
        totals: dict[str, float] = {}
        samples = 0
        for batch in batches:
            outputs = self.session.run(batch, loss=True)
            size = _samples(batch)
            samples += size
            values = {self._loss: _scalar(outputs[self._loss]), **self._measure(outputs, batch)}
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value * size
        if not samples:
            raise InputError("There are no batches to evaluate")
        means = {name: total / samples for name, total in totals.items()}
        return Evaluation(means.pop(self._loss), means)

    def resume(self) -> bool:
        """Continue from the checkpoint if there is one: bit for bit as if the training had not been stopped.

        Returns:
            whether there was one.
        """
        if self._checkpoint is None or not os.path.exists(self._checkpoint):
            return False
        self.progress = load_checkpoint(self._checkpoint, self.session, self.optimizer)
        return True

    def save_checkpoint(self) -> None:
        """Write a checkpoint now, if there is a path for it."""
        if self._checkpoint is not None:
            save_checkpoint(self._checkpoint, self.session, self.optimizer, self.progress)

    def _step(self, micro_batches: Sequence[Batch], epoch: int) -> StepReport:
        step = self.progress.step + 1
        self.session.zero_grad()
        losses: list[float] = []
        measured: list[dict[str, float]] = []
        for batch in micro_batches:
            try:
                outputs = self.session.backward(batch)
            except InputError as error:
                raise InputError(f"Step {step}: {error}") from None
            losses.append(_scalar(outputs[self._loss]))
            if not np.isfinite(losses[-1]):
                raise Error(f"Step {step}: the loss is {losses[-1]}; {_blame(batch)}")
            measured.append(self._measure(outputs, batch))
        rate = self.optimizer.learning_rate * self._schedule(step - 1)
        norm = self.optimizer.step(
            rate_factor=self._schedule(step - 1),
            grad_scale=1.0 / len(micro_batches),
            clip_norm=self._clip_norm,
            clip_value=self._clip_value,
        )
        metrics = {name: float(np.mean([values[name] for values in measured])) for name in self._metrics}
        report = StepReport(step, epoch, float(np.mean(losses)), rate, norm, metrics)
        if self._on_step is not None:
            self._on_step(report)
        return report

    def _measure(self, outputs: Mapping[str, Any], batch: Batch) -> dict[str, float]:
        return {name: metric(outputs, batch) for name, metric in self._metrics.items()}


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _skipped(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    iterator = iter(batches)
    for _ in range(count):
        next(iterator, None)
    return iterator


def _samples(batch: Batch) -> int:
    return max((len(array) for array in batch.values() if np.ndim(array)), default=1)


def _scalar(value: Any) -> float:
    return float(np.mean(np.asarray(value, dtype=np.float64)))


def _blame(batch: Batch) -> str:
    """Say which input is to blame for a loss that is no number."""
    for name, array in batch.items():
        values = np.asarray(array)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(np.size(values) - np.isfinite(values).sum())
            return f"input {name!r} has {bad} element{'s' * (bad > 1)} that are NaN or infinite. Clean the data."
    return "the inputs are finite, so the training diverged. Lower the learning rate, or clip the gradients."
