"""The cut of a joint graph into a forward and a backward model: which values go from the one to the other."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx_ir as ir

from .choose_residuals import changes_basis
from .eliminate_common_subexpressions import is_random
from .errors import InputError
from .memory_of_values import VIEWS, size_in_bytes
from .subgraphs import captured_values

_SOURCE, _SINK = "source", "sink"
EXPENSIVE = frozenset(
    "Attention Conv ConvInteger ConvTranspose Det DFT Einsum Gemm GRU GridSample If Loop LSTM MatMul MatMulInteger "
    "NonMaxSuppression RNN RoiAlign Scan SoftmaxCrossEntropyLoss STFT TopK".split()
)
"""Operators that are not run a second time to keep fewer bytes."""


def choose_residuals(
    graph: ir.Graph,
    seeds: Collection[ir.Value],
    given: Collection[ir.Value],
    gradients: Collection[ir.Value],
    strategy: str | Sequence[str],
    sizes: Mapping[str, int] | None = None,
) -> list[ir.Value]:
    """The residuals: the values that a backward model takes from the forward model.

    What does not depend on a seed can be computed on either side. The values that are, are found by a minimum cut: a
    network has for each value an edge of its bytes, which is cut where it is kept; from what cannot be computed on the
    side of the backward model to what that needs (as the partitioner of PyTorch's AOTAutograd has it).

    Args:
        seeds: the graph inputs that only the backward model has.
        given: graph inputs that both have (the parameters), which cost nothing.
        gradients: the graph outputs that the backward model is to compute; the others are the forward model's.
        strategy: "fast", where nothing is computed on both sides but views, transposes and scaling; "min", where
            everything but random nodes and those of `EXPENSIVE` may be, so that the fewest bytes are kept; or the
            names of values to keep: what the backward part needs is computed from those and the graph's inputs.
        sizes: of symbolic dims by name, as in `size_in_bytes`.

    Returns:
        the values, in the order of the graph.

    Raises InputError for a strategy or name that does not exist, and where a random node would have to run twice.
    """
    import networkx as nx  # here, because it takes longer to import than all the rest

    dependent = dependents(graph, seeds)
    both = set(given)
    needed = needed_by(dependent, gradients) - both
    if isinstance(strategy, str) and strategy not in ("min", "fast"):
        strategy = [strategy]
    if not isinstance(strategy, Iterable):
        raise InputError(f"residuals: 'min', 'fast', or names of values, not {strategy!r}")
    if not isinstance(strategy, str):
        return _named(graph, strategy, needed, both, seeds)
    forward = {value.producer() for value in _ancestors([v for v in graph.outputs if v not in gradients])}
    position = {node: index for index, node in enumerate(graph)}
    values = [value for value in _ancestors(needed) if value not in both]
    network = nx.DiGraph()
    network.add_nodes_from((_SOURCE, _SINK))
    for value in values:
        node = value.producer()
        network.add_edge((value, "in"), (value, "out"), capacity=_capacity(size_in_bytes(value, sizes), position, node))
        if value in needed:
            network.add_edge((value, "out"), _SINK)
        if node is None or not _may_repeat(node, strategy, node in forward):
            network.add_edge(_SOURCE, (value, "in"))
        else:
            for read in _reads(node):
                if read not in both and not _is_constant(read):
                    network.add_edge((read, "out"), (value, "in"))
    _, (reachable, _) = nx.minimum_cut(network, _SOURCE, _SINK, flow_func=nx.algorithms.flow.dinitz)
    cut = [value for value in values if (value, "in") in reachable and (value, "out") not in reachable]
    inputs = {value: index - len(graph.inputs) for index, value in enumerate(graph.inputs)}
    return sorted(cut, key=lambda value: inputs.get(value, position.get(value.producer(), 0)))  # type: ignore[arg-type]


def _named(
    graph: ir.Graph,
    names: Sequence[str],
    needed: Collection[ir.Value],
    both: Collection[ir.Value],
    seeds: Collection[ir.Value],
) -> list[ir.Value]:
    """The values of *names*, and the graph inputs from which, with those, all that is needed can be computed."""
    dependent = dependents(graph, seeds)
    values = {str(value.name): value for node in graph if node not in dependent for value in node.outputs}
    values |= {str(value.name): value for value in graph.inputs if value not in both and value not in seeds}
    for name in names:
        if name not in values:
            raise InputError(
                f"residuals: {name!r} is no value of the forward part; name such values, or take 'min' or 'fast'"
            )
    kept = [values[name] for name in dict.fromkeys(names)]
    pending, seen = list(needed), set(both)
    while pending:
        value = pending.pop()
        if value in seen or value in kept or _is_constant(value):
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            kept.append(value)
        elif is_random(node):
            raise InputError(
                f"residuals: the backward part needs {value.name!r}, which {node.op_type} computes at random and must "
                "not be computed twice; name it too"
            )
        else:
            pending.extend(_reads(node))
    return kept


def dependents(graph: ir.Graph, seeds: Collection[ir.Value]) -> set[ir.Node]:
    """The nodes that depend on *seeds*."""
    reached, nodes = set(seeds), set()
    for node in graph:
        if any(value in reached for value in _reads(node)):
            reached.update(node.outputs)
            nodes.add(node)
    return nodes


def needed_by(dependent: Collection[ir.Node], gradients: Collection[ir.Value]) -> set[ir.Value]:
    """What the dependent nodes read of the others, and the gradients that depend on no seed."""
    read = {value for node in dependent for value in _reads(node)} | set(gradients)
    return {value for value in read if value.producer() not in dependent and not _is_constant(value)}


def _ancestors(values: Collection[ir.Value]) -> list[ir.Value]:
    """*values* and all that they are computed from, without constants."""
    found: dict[ir.Value, None] = {}
    pending = list(values)
    while pending:
        value = pending.pop()
        if value in found or _is_constant(value):
            continue
        found[value] = None
        node = value.producer()
        if node is not None:
            pending.extend(_reads(node))
    return list(found)


def _may_repeat(node: ir.Node, strategy: str, runs_forward: bool) -> bool:
    """Whether the backward model may run *node*, which the forward model runs too if *runs_forward*."""
    if is_random(node) or node.domain != "":
        return False
    if not runs_forward or _is_free(node):
        return True
    return strategy == "min" and (node.op_type not in EXPENSIVE or changes_basis(node))


def _is_free(node: ir.Node) -> bool:
    """Whether *node* is a view, or a runtime makes it a part of the product that reads it."""
    if node.op_type in ("Mul", "Div"):
        return any(value is not None and _is_scalar_constant(value) for value in node.inputs)
    return node.op_type in VIEWS or node.op_type == "Transpose"


def _is_scalar_constant(value: ir.Value) -> bool:
    return _is_constant(value) and value.const_value is not None and value.const_value.size == 1


def _capacity(size: float, position: Mapping[ir.Node, int], node: ir.Node | None) -> int:
    """Bytes; and of equal cuts the earliest is the least."""
    tie = 0 if node is None else 1 + position[node]
    return (1 << 50 if math.isinf(size) else int(size)) * (len(position) + 2) + tie


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and not value.is_graph_input()


def _reads(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *captured_values(node)) if value is not None]
