"""A profile as tables, and as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .console import result_console, result_table

if TYPE_CHECKING:
    from ..runtime.profile import Profile, Share

_LINE = re.compile(r'File "(?:.*[/\\])?([^/\\]+[/\\][^/\\]+)", line (\d+)')

KERNELS = 4
"""How many of the runtime's operators a row names."""


def print_profile(profile: Profile, heading: str, top: int) -> None:
    """Print the shares of the operators, those of the *top* forward nodes, and what the numbers do not say."""
    console = result_console()
    console.print(heading, style="bold")
    operators = profile.by_operator()
    recomputes = any(share.recomputed for share in operators)
    parts = ["forward ms", "backward ms", *(["recomputed ms"] if recomputes else [])]

    table = result_table("operator", *parts, "share", "what its backward part runs", title="By operator and its rule")
    for share in operators:
        table.add_row(share.name, *_numbers(share, profile.total, recomputes), _inside(share))
    if profile.unattributed:
        lost = sum(kernel.milliseconds for kernel in profile.unattributed)
        cells = [""] * (len(parts) - 1)
        table.add_row("(not attributed)", f"{lost:.3f}", *cells, f"{lost / profile.total:.1%}", "")
    table.add_section()
    sums = [sum(column) for column in zip(*map(_parts, operators), strict=True)][: len(parts)]
    table.add_row("all kernels", *(f"{value:.3f}" for value in sums), "100.0%", "")
    _align(table.columns[1 : len(parts) + 2])
    console.print(table)

    if top:
        table = result_table("forward node", "operator", *parts, "share", "source", title="By forward node")
        for share in profile.by_forward_node()[:top]:
            line = _short(profile.source_lines.get(share.name, ""))
            table.add_row(share.name, share.operator, *_numbers(share, profile.total, recomputes), line)
        _align(table.columns[2 : len(parts) + 3])
        console.print(table)

    for kernel in profile.unattributed:
        console.print(f"Not attributed: {kernel.operator} {kernel.name!r}, {kernel.milliseconds:.3f} ms")
    for label, milliseconds in profile.merged().items():
        console.print(f"The runtime merges {label} ({milliseconds:.3f} ms), which counts as the first of them")
    console.print(f"Under the profiler a step takes {profile.step:.3f} ms, its kernels {profile.total:.3f} ms of that")


def as_dict(profile: Profile) -> dict[str, Any]:
    """*profile* for JSON; times are milliseconds a step."""
    return {
        "steps": profile.steps,
        "step": profile.step,
        "kernels": profile.total,
        "operators": [_share(share) for share in profile.by_operator()],
        "nodes": [
            _share(share) | {"operator": share.operator, "source": profile.source_lines.get(share.name)}
            for share in profile.by_forward_node()
        ],
        "unattributed": [
            {"name": kernel.name, "operator": kernel.operator, "milliseconds": kernel.milliseconds}
            for kernel in profile.unattributed
        ],
        "merged": profile.merged(),
    }


def _share(share: Share) -> dict[str, Any]:
    return {
        "name": share.name,
        "forward": share.forward,
        "backward": share.backward,
        "recomputed": share.recomputed,
        "runs": dict(share.kernels),
    }


def _parts(share: Share) -> tuple[float, float, float]:
    return share.forward, share.backward, share.recomputed


def _numbers(share: Share, total: float, recomputes: bool) -> list[str]:
    parts = _parts(share) if recomputes else _parts(share)[:2]
    return [*(f"{value:.3f}" for value in parts), f"{share.total / total:.1%}"]


def _inside(share: Share) -> str:
    """The runtime's operators that take the most of the backward part, each with its part of it."""
    whole = share.backward + share.recomputed
    return ", ".join(f"{name} {time / whole:.0%}" for name, time in share.kernels[:KERNELS] if time >= whole / 100)


def _short(line: str) -> str:
    """`File "/home/me/net/model.py", line 25, in forward` as `net/model.py:25`."""
    found = _LINE.match(line)
    return f"{found[1]}:{found[2]}" if found else line


def _align(columns: Sequence[Any]) -> None:
    for column in columns:
        column.justify = "right"
        column.no_wrap = True
