"""What stands in the way of differentiation: active nodes without a rule, and how the gradient would get there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .activity import Activity, find_activity, find_body_activity
from .errors import UnsupportedError, describe
from .registry import Registry, Rule
from .subgraphs import Iteration, captured_values

LONGEST_PATH = 3
"""The most steps to and from a node that a message shows in full."""


@dataclass(frozen=True)
class Blocker:
    """A node that cannot be differentiated: *node*, or what is in a subgraph of it, and the reason."""

    node: ir.Node
    reason: str

    def __str__(self) -> str:
        return self.reason


def find_blockers(activity: Activity, rules: Registry) -> list[Blocker]:
    """The active nodes that cannot be differentiated, those of subgraphs included."""
    blockers = []
    for node in activity.nodes:
        entry = rules.get(node)
        if entry is None:
            blockers.append(Blocker(node, f"{describe(node)}: no rule is registered for this operator"))
        elif not isinstance(entry, Rule):
            blockers.append(Blocker(node, f"{describe(node)}: {entry.reason}"))
        else:
            for inner in _inner_activities(node, activity.values, rules):
                blockers += [Blocker(node, blocker.reason) for blocker in find_blockers(inner, rules)]
    return blockers


def refuse_blockers(
    activity: Activity, wrt: Collection[ir.Value], outputs: Collection[ir.Value], rules: Registry
) -> None:
    """Raise UnsupportedError, which lists all blockers, each with the reason and a path across it, if there are any."""
    blockers = find_blockers(activity, rules)
    if not blockers:
        return
    lines = []
    for blocker in blockers:
        path = " → ".join(path_across(blocker.node, activity, wrt, outputs))
        lines.append(f"  - {blocker}\n    on the path {path}")
    raise UnsupportedError(
        f"{len(blockers)} node{'s' if len(blockers) > 1 else ''} on the differentiated path cannot be "
        "differentiated:\n"
        + "\n".join(lines)
        + "\nRegister a rule for them (onnxgrad.Registry), or choose `wrt` and `outputs` so that the path "
        "does not cross them."
    )


def path_across(
    node: ir.Node, activity: Activity, wrt: Collection[ir.Value], outputs: Collection[ir.Value]
) -> list[str]:
    """The names along one way from a member of *wrt* over *node* to one of *outputs*: a value, nodes, a value.

    A long way is shortened: its ends and *node* with what is next to it are shown.
    """
    order = {each: index for index, each in enumerate(activity.nodes)}
    before: list[str] = []
    at: ir.Node | None = node
    while at is not None:
        read = [v for v in (*at.inputs, *captured_values(at)) if v is not None and v in activity.values]
        start = next((value for value in read if value in wrt), None)
        source = read[0] if start is None else start
        at = None if start is not None else source.producer()
        before.append(str(source.name) if at is None else _name(at))
    after: list[str] = []
    at = node
    while at is not None:
        end = next((value for value in at.outputs if value in outputs), None)
        useful = [value for value in at.outputs if value in activity.values]
        readers = [reader for value in useful for reader in value.consumers() if reader in order]
        at = None if end is not None or not readers else min(readers, key=order.__getitem__)
        if at is not None:
            after.append(_name(at))
        elif end is not None:
            after.append(str(end.name))
    return [*_shortened(before[::-1]), _name(node), *_shortened(after)]


def _name(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def _shortened(path: Sequence[str]) -> list[str]:
    return list(path) if len(path) <= LONGEST_PATH else [path[0], "…", *path[-1:]]


def _inner_activities(node: ir.Node, active: frozenset[ir.Value], rules: Registry) -> list[Activity]:
    """The differentiated path in each subgraph of a control-flow node, given the active values around it."""
    if node.domain not in ("", "ai.onnx"):
        return []
    if node.op_type in ("Loop", "Scan"):
        iteration = Iteration.of(node)
        return [find_body_activity(iteration, active, active, rules).activity]
    if node.op_type == "If":
        captured = [value for value in captured_values(node) if value in active]
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        return [
            find_activity(
                branch,
                captured,
                [inner for inner, outer in zip(branch.outputs, node.outputs, strict=False) if outer in active],
                rules,
            )
            for branch in branches
        ]
    return []
