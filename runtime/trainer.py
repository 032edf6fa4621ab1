"""The training loop: batches in, a trained session out."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..compiler.schedules import Schedule, constant
from ..passes.errors import Error, InputError
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .feeds import Array, to_numpy
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
        accumulate: micro-batches a step; their gradients are averaged, each batch counting the same.
        clip_norm: the largest global norm of the gradient (`torch.nn.utils.clip_grad_norm_`).
        clip_value: the largest magnitude of a gradient element (`clip_grad_value_`); applied first.
        schedule: the factor on the learning rate by step (`onnxgrad.compiler.schedules`; constant if None).
        metrics: computed from the outputs and the batch, by the names under which they are reported.
        checkpoint: a path to write checkpoints to, each epoch and every *checkpoint_every* steps. `resume`
            continues from it.
        on_step: called after each step.

    Raises InputError if the program has no loss, or for an argument out of its range.
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
        if checkpoint_every is not None and (checkpoint is None or checkpoint_every < 1):
            raise InputError("checkpoint_every is a number of steps, at least 1, and needs a path in checkpoint")
        if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
            raise InputError(f"There is no folder for the checkpoint {os.fspath(checkpoint)}; make it first")
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

        Raises InputError when a batch does not fit the graph, and Error when the loss (or, if gradients are clipped
        by it, their norm) is no finite number; both name the step. Its update is not made then.
        """
        history = History()
        while self.progress.epoch < epochs:
            epoch = self.progress.epoch
            if isinstance(batches, Epochs):
                batches.set_epoch(epoch)
            done = self.progress.batch
            for micro_batches in _grouped(_skipped(batches, done), self._accumulate):
                report = self._step(micro_batches, epoch)
                done += len(micro_batches)
                self.progress = Progress(report.step, epoch, done)
                history.steps.append(report)
                if self._checkpoint_every and report.step % self._checkpoint_every == 0:
                    self.save_checkpoint()
                if self._on_step is not None:
                    self._on_step(report)
            if not done:
                raise InputError(
                    f"Epoch {epoch + 1} has no batches; give something that can be iterated over once an epoch"
                )
            self.progress = Progress(self.progress.step, epoch + 1, 0)
            self.save_checkpoint()
            if validation is not None:
                history.evaluations.append((self.progress.step, self.evaluate(validation)))
        return history

    def evaluate(self, batches: Iterable[Batch]) -> Evaluation:
        """The mean loss and metrics over *batches*, each batch weighted by its samples.

        Raises InputError when a batch does not fit the graph, or there is none.
        """
        totals: dict[str, float] = {}
        samples = 0
        for number, batch in enumerate(batches, start=1):
            with _context(f"Evaluation, batch {number}"):
                outputs = self.session.run(_checked(batch), loss=True, as_ortvalues=not self._metrics)
                values = {self._loss: _scalar(outputs[self._loss]), **self._measure(outputs, batch)}
            size = self._count(batch)
            samples += size
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value * size
        if not samples:
            raise InputError("There are no batches to evaluate; give something that can be iterated over once an epoch")
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
        factor = self._schedule(step - 1)
        self.session.zero_grad()
        losses: list[float] = []
        measured: list[dict[str, float]] = []
        with _context(f"Step {step}"):
            for batch in micro_batches:
                # Without metrics nobody reads the other outputs.
                asked = None if self._metrics else self._loss
                outputs = self.session.backward(_checked(batch), outputs=asked)
                losses.append(_scalar(outputs[self._loss]))
                if not math.isfinite(losses[-1]):
                    raise Error(f"The loss is {losses[-1]}; {_blame(batch)}")
                measured.append(self._measure(outputs, batch))
            norm = self.optimizer.step(
                rate_factor=factor,
                grad_scale=1.0 / len(micro_batches),
                clip_norm=self._clip_norm,
                clip_value=self._clip_value,
            )
        metrics = {name: fmean(values[name] for values in measured) for name in self._metrics}
        return StepReport(step, epoch, fmean(losses), self.optimizer.learning_rate * factor, norm, metrics)

    def _measure(self, outputs: Mapping[str, Any], batch: Batch) -> dict[str, float]:
        return {name: metric(outputs, batch) for name, metric in self._metrics.items()}

    def _count(self, batch: Batch) -> int:
        """The samples of *batch*: the length of its labels, or of its first input, if they are no scalars."""
        signature = self.session.program.signature
        names = [port.name for port in (*signature.inputs_of("label"), *signature.inputs_of("input"))]
        shapes = [to_numpy(batch[name]).shape for name in names if name in batch]
        return next((shape[0] for shape in shapes if shape), 1)


@contextlib.contextmanager
def _context(place: str) -> Iterator[None]:
    """Say in every error where it came from."""
    try:
        yield
    except Error as error:
        raise type(error)(f"{place}: {error}") from error.__cause__


def _checked(batch: Batch) -> Batch:
    if not isinstance(batch, Mapping):
        raise InputError(
            f"A batch is a dict of arrays by the names of the graph's inputs, not a {type(batch).__name__}"
        )
    return batch


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


def _scalar(value: Array) -> float:
    array = to_numpy(value)
    return float(array.item() if array.size == 1 else np.mean(array, dtype=np.float64))


def _blame(batch: Batch) -> str:
    """Say which input is to blame for a loss that is no number."""
    for name, array in batch.items():
        values = to_numpy(array)
        bad = 0 if values.dtype.kind != "f" else int(values.size - np.isfinite(values).sum())
        if bad:
            return f"input {name!r} has {bad} element{'s' * (bad > 1)} that are NaN or infinite. Clean the data."
    return "the inputs are finite, so the training diverged. Lower the learning rate, or clip the gradients."
