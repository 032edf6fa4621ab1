"""The progress bar of a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ..runtime.trainer import StepReport


class TrainingProgress:
    """Shows steps, epoch, loss and metrics while a Trainer runs (`Trainer(on_step=progress.on_step)`).

    On stderr, if that is a terminal; else nothing.
    """

    def __init__(self, steps: int) -> None:
        terminal = Console(stderr=True)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=terminal,
            disable=not terminal.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, epoch=1, values="")
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        # Where a training ends with an error, the error is all that stays on the screen.
        self._bar.live.transient = error is not None
        self._bar.stop()

    def start_at(self, step: int) -> None:
        """Begin at *step*, of a training that is resumed."""
        self._bar.update(self._task, completed=step)

    def on_step(self, report: StepReport) -> None:
        """Show one step; values are smoothed over about twenty steps."""
        for name, value in {"loss": report.loss, **report.metrics}.items():
            self._smooth[name] = 0.95 * self._smooth.get(name, value) + 0.05 * value
        values = "  ".join(f"{name} {value:.4f}" for name, value in self._smooth.items())
        self._bar.update(self._task, completed=report.step, epoch=report.epoch + 1, values=values)
