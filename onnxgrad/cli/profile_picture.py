"""A profile as a picture: the operators' shares of a step, and the forward nodes that take the most."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..compiler.save import staging_folder

if TYPE_CHECKING:
    from ..runtime.profile import Profile, Share

INK, GRID = "#334155", "#e2e8f0"
COLORS = {"forward": "#94a3b8", "backward": "#2563eb", "recomputed": "#059669"}
ROWS = 14
"""How many bars have names of their own."""
LEAST = 0.002
"""The share of a step from which an operator has one."""


def draw_profile(profile: Profile, path: Path, heading: str) -> None:
    """Write a PNG to *path*: a bar for each operator, and one for each of the forward nodes that take the most.

    Raises Error when it cannot be written.
    """
    with matplotlib.rc_context(
        {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "text.parse_math": False}
    ):
        operators, nodes = profile.by_operator(), profile.by_forward_node()
        rows = min(ROWS, len(nodes))
        figure = Figure(figsize=(13, 1.6 + 0.3 * max(rows, 6)), layout="constrained")
        left, right = figure.subplots(1, 2)
        lost = sum(kernel.milliseconds for kernel in profile.unattributed)
        missing = f", {lost:.2f} ms of it not attributed" if lost else ""
        figure.suptitle(f"{heading}, {profile.step:.2f} ms a step{missing}", fontsize=10)
        _draw(left, operators, profile.total, "by operator and its rule")
        _draw(right, nodes, profile.total, "by forward node")
        left.legend(frameon=False, loc="lower right")
        with staging_folder(path) as folder:
            figure.savefig(folder / path.name, dpi=150, format="png")


def _draw(axes: Axes, shares: Sequence[Share], total: float, title: str) -> None:
    count = min(ROWS, sum(share.total >= LEAST * total for share in shares))
    shown, rest = shares[:count], shares[count:]
    labels = [_short(share.name) for share in shown] + [f"{len(rest)} others"] * bool(rest)
    starts = [0.0] * len(labels)
    for part, color in COLORS.items():
        widths = [getattr(share, part) for share in shown]
        if rest:
            widths.append(sum(getattr(share, part) for share in rest))
        if any(widths):
            axes.barh(range(len(labels)), widths, left=starts, color=color, label=part, height=0.72)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for row, end in enumerate(starts):
        axes.annotate(f" {end / total:.1%}", (end, row), va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("ms a step")
    axes.set_title(title)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str, most: int = 44) -> str:
    """*name*, its beginning left out where it is long: the end tells nodes of one model apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
