"""Activity analysis: which values depend on `wrt` and reach a differentiated output, and what stands in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .errors import describe
from .registry import Registry, Rule, Zero
from .subgraphs import Iteration, State, captured_values

_QUANTIZERS = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


_FLOATS = frozenset(dtype for dtype in ir.DataType if dtype.is_floating_point() and dtype.bitwidth >= 16)


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
    graph: ir.Graph | Sequence[ir.Node],
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    rules: Registry,
) -> Activity:
    """Mark the active values of *graph*, or of nodes in its order, whether or not there are rules (see `blockers`)."""
    varied = _varied(graph, wrt, rules)
    useful = {value for value in outputs if value in varied}
    nodes: list[ir.Node] = []
    for node in reversed(graph):
        if useful.isdisjoint(node.outputs):
            continue
        carried = [value for index, value in _reads(node) if value in varied and _carries(node, index, value, rules)]
        if carried:
            useful.update(carried)
            nodes.append(node)
    nodes.reverse()
    return Activity(
        values=frozenset(varied & useful),
        nodes=tuple(nodes),
        unreached=tuple(value for value in wrt if value not in useful),
    )


@dataclass(frozen=True)
class BodyActivity:
    """The differentiated path in the body of a Scan or Loop, over all iterations.

    Attributes:
        activity: of the body's graph.
        carried: the states along which cotangents go from iteration to iteration.
        wrt: the body's inputs and captured values that depend on `wrt` in some iteration.
    """

    activity: Activity
    carried: tuple[State, ...]
    wrt: tuple[ir.Value, ...]


def find_body_activity(
    iteration: Iteration, active: Collection[ir.Value], differentiated: Collection[ir.Value], rules: Registry
) -> BodyActivity:
    """Mark the active values of a body.

    Args:
        active: the outer values that the node reads and whose cotangents are wanted.
        differentiated: the node's outputs that have cotangents.
    """
    body, states = iteration.body, iteration.states
    wrt = dict.fromkeys(value for value in captured_values(iteration.node) if value in active)
    wrt |= dict.fromkeys(stack.slice for stack in iteration.read if stack.stacked in active)
    wrt |= dict.fromkeys(state.at_start for state in states if state.initial in active)
    outputs = dict.fromkeys(stack.slice for stack in iteration.given if stack.stacked in differentiated)
    outputs |= dict.fromkeys(state.at_end for state in states if state.final in differentiated)
    # What one iteration leaves in a state, the next one finds there.
    while True:
        varied = _varied(body, list(wrt), rules)
        activity = find_activity(body, list(wrt), list(outputs), rules)
        useful = activity.values
        more_wrt = [s.at_start for s in states if s.at_end in varied and s.at_start not in wrt and is_float(s.at_start)]
        more_outputs = [s.at_end for s in states if s.at_start in useful and s.at_end not in outputs]
        if not more_wrt and not more_outputs:
            break
        wrt |= dict.fromkeys(more_wrt)
        outputs |= dict.fromkeys(more_outputs)
    carried = tuple(state for state in states if state.at_start in wrt and state.at_end in outputs)
    return BodyActivity(activity, carried, tuple(wrt))


def where_the_path_breaks(graph: ir.Graph, source: ir.Value, rules: Registry) -> list[str]:
    """Say at which nodes the dependence of the graph's values on *source* ends, for an error message."""
    reached, breaks = {source}, []
    for node in graph:
        for index, value in _reads(node):
            if value not in reached:
                continue
            if _carries(node, index, value, rules):
                reached.update(output for output in node.outputs if _carries_floats(output))
            else:
                entry = rules.get(node)
                why = entry.reason if isinstance(entry, Zero) else f"its input {index} has no gradient"
                breaks.append(f"{describe(node)}: {why}")
    return breaks


def is_float(value: ir.Value) -> bool:
    """Whether *value* can carry a gradient: a float tensor, or one of a type that inference could not tell."""
    return value.dtype is None or value.dtype in _FLOATS


def _carries_floats(value: ir.Value) -> bool:
    """Whether *value* is a float tensor, or the integers that floats were rounded to on the way to an output.

    No gradient flows through the latter, but what computes them stands in the way of one, and must be named.
    """
    return is_float(value) or _is_quantized(value)


def _is_quantized(value: ir.Value) -> bool:
    node, dtype = value.producer(), value.dtype
    if node is None or dtype is None or dtype in (ir.DataType.BOOL, ir.DataType.STRING):
        return False
    if is_float(value) or dtype.bitwidth > 16:
        return False
    return node.op_type in _QUANTIZERS or any(each is not None and _is_quantized(each) for each in node.inputs)


def _varied(graph: ir.Graph | Sequence[ir.Node], wrt: Sequence[ir.Value], rules: Registry) -> set[ir.Value]:
    """The values of *graph* that depend on *wrt*, and *wrt* itself."""
    varied = set(wrt)
    for node in graph:
        if any(value in varied and _carries(node, index, value, rules) for index, value in _reads(node)):
            varied.update(value for value in node.outputs if _carries_floats(value))
    return varied


def _reads(node: ir.Node) -> Iterable[tuple[int, ir.Value]]:
    """The values that *node* reads: its inputs by index, and after them what its subgraphs capture."""
    for index, value in enumerate([*node.inputs, *captured_values(node)]):
        if value is not None:
            yield index, value


def _carries(node: ir.Node, index: int, value: ir.Value, rules: Registry) -> bool:
    """Whether a gradient can flow from the outputs of *node* to its input at *index*."""
    if not _carries_floats(value) or not any(_carries_floats(output) for output in node.outputs):
        return False
    entry = rules.get(node)
    if isinstance(entry, Zero):
        return False
    if isinstance(entry, Rule) and entry.inputs is not None and index < len(node.inputs):
        return index in entry.inputs
    return True
