"""Activity analysis: which values depend on `wrt` and reach a differentiated output, and what stands in the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .errors import UnsupportedError, describe
from .registry import Registry, Rule, Zero


@dataclass(frozen=True)
class Activity:
    """The differentiated path.

    Attributes:
        values: the active values.
        nodes: the active nodes in graph order: an active input and an active output.
        unreached: the members of `wrt` that no differentiated output depends on.
    """

    values: frozenset[ir.Value]
    nodes: tuple[ir.Node, ...]
    unreached: tuple[ir.Value, ...]


def find_activity(
    graph: ir.Graph,
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    rules: Registry,
    *,
    refuse: bool = True,
) -> Activity:
    """Mark the active values of *graph*.

    Raises UnsupportedError, unless *refuse* is False, that lists every node on the differentiated path which
    cannot be differentiated, each with the reason.
    """
    varied = set(wrt)
    for node in graph:
        if any(_carries(node, index, value, rules) for index, value in _read_by(node) if value in varied):
            varied.update(value for value in node.outputs if is_float(value))

    useful = {value for value in outputs if value in varied}
    nodes: list[ir.Node] = []
    for node in reversed(graph):
        if useful.isdisjoint(node.outputs):
            continue
        carried = [value for index, value in _read_by(node) if value in varied and _carries(node, index, value, rules)]
        if carried:
            useful.update(carried)
            nodes.append(node)
    nodes.reverse()

    blockers = find_blockers(nodes, rules)
    if blockers and refuse:
        raise UnsupportedError(
            f"{len(blockers)} node{'s' if len(blockers) > 1 else ''} on the differentiated path cannot be "
            "differentiated:\n"
            + "\n".join(f"  - {blocker}" for blocker in blockers)
            + "\nRegister a rule for them (onnxgrad.Registry), or choose `wrt` and `outputs` so that the path "
            "does not cross them."
        )
    return Activity(
        values=frozenset(varied & useful),
        nodes=tuple(nodes),
        unreached=tuple(value for value in wrt if value not in useful),
    )


def where_the_path_breaks(graph: ir.Graph, source: ir.Value, rules: Registry) -> list[str]:
    """Say at which nodes the dependence of the graph's values on *source* ends, for an error message."""
    reached, breaks = {source}, []
    for node in graph:
        for index, value in _read_by(node):
            if value not in reached:
                continue
            if _carries(node, index, value, rules):
                reached.update(output for output in node.outputs if is_float(output))
            else:
                entry = rules.get(node)
                why = entry.reason if isinstance(entry, Zero) else f"its input {index} has no gradient"
                breaks.append(f"{describe(node)}: {why}")
    return breaks


def is_float(value: ir.Value) -> bool:
    """Whether *value* can carry a gradient: a float tensor, or one of a type that inference could not tell."""
    return value.dtype is None or (value.dtype.is_floating_point() and value.dtype.bitwidth >= 16)


def _read_by(node: ir.Node) -> Iterable[tuple[int, ir.Value]]:
    """The values that *node* reads: its inputs by index, and what its subgraphs capture by the index -1."""
    for index, value in enumerate(node.inputs):
        if value is not None:
            yield index, value
    for attribute in node.attributes.values():
        graphs = (
            [attribute.as_graph()]
            if attribute.type == ir.AttributeType.GRAPH
            else attribute.as_graphs()
            if attribute.type == ir.AttributeType.GRAPHS
            else []
        )
        for graph in graphs:
            for inner in graph.all_nodes():
                for value in inner.inputs:
                    if value is not None and value.graph is not graph:
                        yield -1, value


def _carries(node: ir.Node, index: int, value: ir.Value, rules: Registry) -> bool:
    """Whether a gradient can flow from the outputs of *node* to its input at *index*."""
    if not is_float(value) or not any(is_float(output) for output in node.outputs):
        return False
    entry = rules.get(node)
    if isinstance(entry, Zero):
        return False
    if isinstance(entry, Rule) and entry.inputs is not None:
        return index in entry.inputs
    return True


def find_blockers(nodes: Iterable[ir.Node], rules: Registry) -> list[str]:
    """Name those of *nodes* that cannot be differentiated, each with the reason."""
    blockers = []
    for node in nodes:
        entry = rules.get(node)
        if entry is None:
            blockers.append(f"{describe(node)}: no rule is registered for this operator")
        elif not isinstance(entry, Rule):
            blockers.append(f"{describe(node)}: {entry.reason}")
    return blockers
