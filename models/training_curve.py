"""Draw how a training went: the loss of each step beside the held-out accuracy after each epoch."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

INK, GRID = "#334155", "#e2e8f0"
LOSS, ACCURACY = "#2563eb", "#059669"


def draw_training_curve(path: Path, title: str, losses: Sequence[float], accuracies: Sequence[float]) -> None:
    """Write a PNG to *path*.

    Args:
        losses: one a step, equally many each epoch.
        accuracies: held-out, from 0 to 1: before the training, and after each epoch.
    """
    epochs = len(accuracies) - 1
    with matplotlib.rc_context({"font.size": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        figure.suptitle(title, fontsize=13, fontweight="bold")
        _draw_losses(left, np.asarray(losses), epochs)
        _draw_accuracies(right, accuracies)
        for axes in (left, right):
            axes.set_xlabel("epoch")
            axes.set_xlim(0, epochs)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color=GRID, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(colors=INK, length=0)
            axes.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160)


def _draw_losses(axes: Axes, losses: np.ndarray, epochs: int) -> None:
    steps = len(losses) // epochs
    axes.plot((np.arange(len(losses)) + 1) / steps, losses, color=LOSS, alpha=0.25, linewidth=0.8, label="step")
    means = losses.reshape(epochs, steps).mean(axis=1)
    axes.plot(np.arange(epochs) + 0.5, means, color=LOSS, linewidth=2.2, label="mean of the epoch")
    axes.set_yscale("log")
    axes.set_title("training loss")
    axes.legend(frameon=False, loc="lower left")


def _draw_accuracies(axes: Axes, accuracies: Sequence[float]) -> None:
    axes.plot(accuracies, color=ACCURACY, linewidth=2.2, marker="o", markersize=4, clip_on=False)
    axes.annotate(
        f"{accuracies[-1]:.1%}",
        (len(accuracies) - 1, accuracies[-1]),
        xytext=(0, -18),
        textcoords="offset points",
        ha="right",
        color=ACCURACY,
        fontsize=12,
        fontweight="bold",
    )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("held-out accuracy")
