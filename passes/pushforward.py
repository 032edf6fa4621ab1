"""Forward-mode differentiation: a walk along the active nodes, which pushes tangents from inputs to outputs.

There is no second table of rules. Where an operator is linear in an input, the tangent is the operator itself, of the
input's tangent (`linearity`). Where its Jacobian is symmetric, its VJP rule gives the tangent (`symmetry`). For all
others the VJP of the node, linear in the cotangent, is transposed: differentiated with respect to the cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx_ir as ir

from .activity import Activity
from .contributions import Contributions
from .differentiate import FORWARD_NODE, PASS, find_differentiable
from .forms import plain_form
from .fresh_names import FreshNames
from .linearity import linearity_of
from .registry import Registry
from .rules import has_builtin_rule
from .subgraphs import captured_values
from .substitution import remove_if_unused
from .symmetry import is_symmetric
from .tangent_steps import Linear, Step, Symmetric, Transposed
from .tape import Tape


def pushforward(
    graph: ir.Graph,
    tangents: Mapping[ir.Value, ir.Value],
    outputs: Sequence[ir.Value],
    rules: Registry,
    inline: Callable[[], None] = lambda: None,
) -> dict[ir.Value, ir.Value]:
    """Append to *graph* the tangents of *outputs*, the Jacobian-vector product.

    Args:
        tangents: initializers, graph inputs or intermediate values, each with its tangent, of the same shape and dtype.
        outputs: values of the graph.
        inline: replaces the calls of functions that differentiation has made; called before it is transposed.

    Returns:
        the tangents of those of *outputs* that depend on a primal.

    Raises UnsupportedError as `differentiate` does.

    Source: Radul et al., "You Only Linearize Once", 2022 (there the other way round: the VJP as a transposed JVP).
    """
    before = set(graph)
    rules = Registry(rules, choose=plain_form)
    activity = find_differentiable(graph, list(tangents), outputs, rules)
    steps = list(_steps(activity, tangents, outputs, rules))
    tape = Tape(graph)
    # In the order of a reverse walk: a rule may put other values in the place of its node's outputs.
    for step in reversed(steps):
        if isinstance(step, Transposed):
            step.pull_back(tape, rules)
    inline()
    _find_emitted(graph, steps)
    tape = Tape(graph)
    pushed = Contributions(tape)
    for value, tangent in tangents.items():
        pushed.add(value, tape.tensor(tangent))
    for step in steps:
        step.push(tape, pushed, rules)
    found = {value: total.value for value in dict.fromkeys(outputs) if (total := pushed.total(value)) is not None}
    emitted = [node for node in graph if node not in before]
    _name_after_forward_nodes(graph, emitted)
    _remove_unused(emitted, found.values())
    return found


def _steps(
    activity: Activity, primals: Mapping[ir.Value, ir.Value], outputs: Sequence[ir.Value], rules: Registry
) -> Iterator[Step]:
    """The active nodes in their order, as they are to be pushed through."""
    nodes, active = activity.nodes, activity.values
    # A sequence has no seed. What lies between the first and the last node that has to do with one is one step.
    listed = [index for index, node in enumerate(nodes) if _passes_sequences(node, active)]
    first, last = (listed[0], listed[-1]) if listed else (len(nodes), len(nodes) - 1)
    for node in nodes[:first]:
        yield from _steps_of_node(node, active, rules)
    if listed:
        together = nodes[first : last + 1]
        given = {value for node in together for value in node.outputs}
        reads = dict.fromkeys(v for node in together for v in _reads(node) if v is not None and v in active)
        later = {value for node in nodes[last + 1 :] for value in _reads(node)}.union(outputs)
        gives = [value for node in together for value in node.outputs if value in active and value in later]
        yield Transposed(Activity(active, together, ()), [v for v in reads if v not in given or v in primals], gives)
    for node in nodes[last + 1 :]:
        yield from _steps_of_node(node, active, rules)


def _steps_of_node(node: ir.Node, active: frozenset[ir.Value], rules: Registry) -> Iterator[Step]:
    """Each of the active values that *node* reads occurs in one of them."""
    reads = [value if value is not None and value in active else None for value in _reads(node)]
    given = [value for value in node.outputs if value in active]
    plain = has_builtin_rule(rules, node) and (given == [node.outputs[0]] or node.op_type == "Split")
    linear = _linear_inputs(node, reads) if plain else set()
    if linear:
        yield Linear(node, [value if index in linear else None for index, value in enumerate(reads)])
    rest = [index for index, value in enumerate(reads) if value is not None and index not in linear]
    first = {value: index for index in reversed(rest) if (value := reads[index]) is not None}
    if rest and plain and all(is_symmetric(node, index) for index in rest):
        yield Symmetric(node, first)
    elif rest:
        yield Transposed(Activity(frozenset(first), (node,), ()), list(first), given)


def _linear_inputs(node: ir.Node, reads: Sequence[ir.Value | None]) -> set[int]:
    """The indices of the inputs whose tangents the operator itself pushes."""
    linearity = linearity_of(node)
    if linearity is None:
        return set()
    indices = {index for index, value in enumerate(reads) if value is not None}
    linear = indices.intersection(index for group in linearity.factors for index in group)
    if linear:
        linear |= indices.intersection(linearity.addends)
    others = {reads[index] for index in indices - linear}
    return linear if others.isdisjoint(reads[index] for index in linear) else set()


def _reads(node: ir.Node) -> list[ir.Value | None]:
    return [*node.inputs, *captured_values(node)]


def _passes_sequences(node: ir.Node, active: frozenset[ir.Value]) -> bool:
    values = [value for value in (*_reads(node), *node.outputs) if value is not None and value in active]
    return any(isinstance(value.type, ir.SequenceType | ir.OptionalType) for value in values)


def _find_emitted(graph: ir.Graph, steps: Sequence[Step]) -> None:
    """Tell each VJP its nodes: those from its first seed up to the next one's."""
    starts = {next(iter(step.seeds.values())).producer(): step for step in steps if isinstance(step, Transposed)}
    step = None
    for node in graph:
        step = starts.get(node, step)
        if step is not None:
            step.emitted.append(node)


def _remove_unused(emitted: Sequence[ir.Node], results: Iterable[ir.Value]) -> None:
    """Remove what only led to the cotangents, which are read by nothing but what is transposed."""
    kept = set(results)
    for node in reversed(emitted):
        if kept.isdisjoint(node.outputs):
            remove_if_unused(node)


def _name_after_forward_nodes(graph: ir.Graph, emitted: Sequence[ir.Node]) -> None:
    """Give the emitted nodes the provenance of the forward nodes whose tangents they compute."""
    names = FreshNames(graph)
    origin = {node.name: node.metadata_props.get(FORWARD_NODE) for node in emitted}
    for node in emitted:
        forward = node.metadata_props.get(FORWARD_NODE)
        while forward in origin and origin[forward] is not None:
            forward = origin[forward]
        node.metadata_props[PASS] = "pushforward"
        if forward is not None:
            node.metadata_props[FORWARD_NODE] = forward
            node.name = names.fresh(f"{forward}.tangent/{node.op_type}")
