"""The charts of the report: step time and memory of each peer, as ratios to PyTorch eager."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .peers import BASELINE, PEERS
from .peers.peer import GEMM_SIZE
from .results import Quartiles, WorkloadResult

_INK, _GRID = "#334155", "#e2e8f0"
_COLOURS = {
    "onnxgrad": "#2563eb",
    "onnxgrad-checkpoint": "#93c5fd",
    "torch.compile": "#ea580c",
    "ort-training": "#059669",
    "onnx-ad": "#a855f7",
    "onnxsim": "#ca8a04",
    "jax": "#db2777",
}
_HIGHEST = 4.0
"""Bars end here, with their number on top: one peer that is ten times slower must not flatten the others."""


def draw_steps(results: Sequence[WorkloadResult], path: Path) -> None:
    """Write a PNG to *path*: the time of a step; with quartiles, dots for the limit, × where a peer fails."""
    _draw(
        results,
        path,
        lambda result, name: result.ratio(name, "step", BASELINE),
        label="step time / PyTorch eager's",
        title="Loss and all gradients: less is faster (dots: the limit, ×: fails)",
        limit=True,
    )


def draw_memory(results: Sequence[WorkloadResult], path: Path) -> None:
    """Write a PNG to *path*: the peak memory of a step, × where a peer fails."""

    def ratio(result: WorkloadResult, name: str) -> Quartiles | None:
        peak = result.memory_ratio(name)
        return None if peak is None else Quartiles.of([peak])

    _draw(
        results,
        path,
        ratio,
        label="peak / PyTorch eager's",
        title="Resident memory of a step above the loaded state: less is leaner (×: fails)",
        limit=False,
    )


def _draw(
    results: Sequence[WorkloadResult],
    path: Path,
    ratio: Callable[[WorkloadResult, str], Quartiles | None],
    *,
    label: str,
    title: str,
    limit: bool,
) -> None:
    """A group of bars a workload."""
    peers = [name for name in PEERS if name in _COLOURS and any(name in result.peers for result in results)]
    width = 0.8 / max(len(peers), 1)
    with matplotlib.rc_context({"font.size": 10, "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots()
        for i, name in enumerate(peers):
            for group, result in enumerate(results):
                if name in result.peers:
                    place = group + (i - (len(peers) - 1) / 2) * width
                    _draw_bar(axes, place, width, ratio(result, name), _COLOURS[name])
            axes.bar([0], [0], color=_COLOURS[name], label=name)
        for group, result in enumerate(results if limit else ()):
            _draw_limit(axes, group, result)
        axes.axhline(1.0, color=_INK, linewidth=1.2, label="PyTorch eager")
        axes.set_xticks(np.arange(len(results)), [result.name for result in results])
        axes.set_ylabel(label)
        axes.set_title(title, fontweight="bold")
        axes.set_ylim(0, min(_HIGHEST, axes.get_ylim()[1]) * 1.05)
        axes.set_xlim(-0.6, len(results) - 0.4)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_INK, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, dpi=110)


def _draw_bar(axes: Axes, place: float, width: float, ratio: Quartiles | None, colour: str) -> None:
    if ratio is None:
        axes.text(place, 0.02, "×", ha="center", va="bottom", color=colour)
        return
    height = min(ratio.median, _HIGHEST)
    axes.bar([place], [height], width * 0.92, color=colour)
    if ratio.median <= _HIGHEST:
        spread = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
        axes.errorbar([place], [ratio.median], yerr=spread, color=_INK, linewidth=0.8)
    else:
        axes.text(place, height, f"{ratio.median:.0f}", ha="center", va="bottom", color=colour, fontsize=8)


def _draw_limit(axes: Axes, group: int, result: WorkloadResult) -> None:
    limit, base = result.limit(2 * GEMM_SIZE**3), result.seconds(BASELINE, "step")
    if limit and base:
        height = limit / statistics.median(base)
        axes.hlines(height, group - 0.42, group + 0.42, color=_INK, linestyle=":", linewidth=1.2)
