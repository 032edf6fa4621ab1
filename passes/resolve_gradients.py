"""Gradient nodes (ai.onnx.preview.training) are replaced by what computes the gradients that they stand for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from .contrib.expansion import TRAINING
from .differentiate import PASS, differentiate
from .errors import InvalidModelError, UnsupportedError, describe
from .fresh_names import FreshNames
from .registry import Registry
from .subgraphs import captured_values
from .substitution import remove_if_unused, substitute
from .tape import Tape


class ResolveGradients(ir.passes.InPlacePass):
    """Replace every Gradient node, those of gradients first computed by others after these, by backward nodes.

    The derivative of y is taken with respect to each of xs as the standard defines it: xs and zs are independent of
    each other, and have the values that the node is fed. Where y has more than one element it is the gradient of their
    sum, of which the standard says nothing. Where y does not depend on one of xs, its gradient is zero.

    Requires: the canonical form (functions inlined, one opset, shapes inferred), with the values that `named_values`
    lists still there. Guarantees: no Gradient is left.

    Raises:
        InvalidModelError: a node names a value that the graph does not have, or has too many or too few inputs or
            outputs, or gradients are defined by each other in a circle.
        UnsupportedError: a Gradient is in a subgraph or a function, or its path cannot be differentiated.
    """

    def __init__(self, rules: Registry) -> None:
        self._rules = rules

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        modified = False
        while nodes := gradient_nodes(model):
            request = _next(graph, nodes)
            _replace(graph, request, self._rules)
            graph.sort()
            modified = True
        if not any(node.domain == TRAINING for node in graph.all_nodes()):
            model.opset_imports.pop(TRAINING, None)
        return ir.passes.PassResult(model, modified)


def gradient_nodes(model: ir.Model) -> list[ir.Node]:
    """The Gradient nodes of *model*. Raises UnsupportedError for one that is not in the graph itself."""
    functions = [node for function in model.functions.values() for node in function.all_nodes()]
    for node in (*model.graph.all_nodes(), *functions):
        if _is_gradient(node) and node.graph is not model.graph:
            raise UnsupportedError(
                f"{describe(node)} is in a subgraph or a function, where the names in its attributes are unclear; "
                "take the gradient in the main graph"
            )
    return [node for node in model.graph if _is_gradient(node)]


def named_values(nodes: Collection[ir.Node]) -> list[str]:
    """The names that *nodes*, Gradients all, have in their attributes: which must survive until they are read."""
    return [name for node in nodes for name in (*_names(node, "xs"), *_names(node, "zs"), _y(node))]


def _is_gradient(node: ir.Node) -> bool:
    return node.domain == TRAINING and node.op_type == "Gradient"


@dataclass(frozen=True)
class _Request:
    """What a Gradient node asks for: the derivatives of *y* by *xs*, at the *points* of xs and others."""

    node: ir.Node
    y: ir.Value
    xs: Sequence[ir.Value]
    points: Mapping[ir.Value, ir.Value]
    """What the node is fed, by the independent value that it stands for."""

    @classmethod
    def of(cls, node: ir.Node, values: Mapping[str, ir.Value]) -> Self:
        xs, zs = _names(node, "xs"), _names(node, "zs")
        for name in (*xs, *zs, _y(node)):
            if name not in values:
                raise InvalidModelError(f"{describe(node)} names {name!r}, but the graph has no such value")
        independent = [values[name] for name in (*xs, *zs)]
        given = [value for value in node.inputs if value is not None]
        if len(given) != len(independent) or len(set(independent)) < len(independent) or len(node.outputs) > len(xs):
            raise InvalidModelError(
                f"{describe(node)} has {len(given)} inputs and {len(node.outputs)} outputs; it needs an input for each "
                f"of its xs and zs, {', '.join((*xs, *zs))}, each of which is named once, and at most {len(xs)} outputs"
            )
        return cls(node, values[_y(node)], [values[name] for name in xs], dict(zip(independent, given, strict=True)))


def _names(node: ir.Node, attribute: str) -> Sequence[str]:
    return node.attributes[attribute].as_strings() if attribute in node.attributes else ()


def _y(node: ir.Node) -> str:
    return node.attributes["y"].as_string()


def _next(graph: ir.Graph, nodes: Sequence[ir.Node]) -> _Request:
    """The first whose y depends on no other Gradient."""
    outputs = [value for node in graph for value in node.outputs]
    values = {str(value.name): value for value in (*graph.inputs, *graph.initializers.values(), *outputs)}
    requests = [_Request.of(node, values) for node in nodes]
    for request in requests:
        if not any(_is_gradient(node) for node in _before(request.y)):
            return request
    names = ", ".join(repr(str(request.y.name)) for request in requests)
    raise InvalidModelError(f"The Gradients of {names} are defined by each other in a circle")


def _before(value: ir.Value) -> set[ir.Node]:
    """The nodes that compute *value*."""
    found: set[ir.Node] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending += [read for read in (*node.inputs, *captured_values(node)) if read is not None]
    return found


def _replace(graph: ir.Graph, request: _Request, rules: Registry) -> None:
    tape = _tape(graph, request)
    points, moved = request.points, {}
    if any(point is not named or _depends(named, points) for named, point in points.items()):
        # All of them, for one that stays may have been what another point is computed from.
        moved = {named: tape.Identity(tape.tensor(point)).value for named, point in points.items()}
    y = _at_points(graph, request.y, moved)
    tape = _tape(graph, request)
    wrt = [moved.get(x, x) for x in request.xs]
    seed = tape.full_like(tape.tensor(y), 1).value
    gradients = differentiate(graph, {y: seed}, wrt, rules, optional=wrt)
    tape = _tape(graph, request)
    for x, output in zip(wrt, list(request.node.outputs), strict=False):
        if output.uses() or output.is_graph_output():
            request.node.name = tape.fresh_name(f"{tape.prefix}/Identity")  # that of a copy, where one is needed
            substitute(output, gradients[x] if x in gradients else tape.zeros_like(tape.tensor(x)).value)
    if request.node.graph is not None:
        remove_if_unused(request.node)


def _tape(graph: ir.Graph, request: _Request) -> Tape:
    """A tape that knows of all names that the graph has by now."""
    tape = Tape(graph)
    tape.at(request.node.name or str(request.node.outputs[0].name), {PASS: "differentiate"})
    return tape


def _depends(value: ir.Value, others: Collection[ir.Value]) -> bool:
    """Whether *value* is computed from one of *others*."""
    return any(read in others for node in _before(value) for read in (*node.inputs, *captured_values(node)))


def _at_points(graph: ir.Graph, y: ir.Value, moved: Mapping[ir.Value, ir.Value]) -> ir.Value:
    """What *y* is when the keys of *moved* have other values: the nodes between them are repeated for that."""
    if y in moved:
        return moved[y]
    needed, changed, repeated = _before(y), set(moved), []
    for node in graph:
        if node in needed and any(value in changed for value in (*node.inputs, *captured_values(node))):
            repeated.append(node)
            changed.update(node.outputs)
    if y not in changed:
        return y
    copy = graph.clone(allow_outer_scope_values=True)
    copies = dict(zip(graph, copy, strict=True))
    twins = dict(zip((*graph.inputs, *_initializers(graph)), (*copy.inputs, *_initializers(copy)), strict=True))
    twins |= {own: twin for a, b in copies.items() for own, twin in zip(a.outputs, b.outputs, strict=True)}
    copy.outputs.clear()
    for own, twin in twins.items():
        if own in moved or own not in changed:
            twin.replace_all_uses_with(moved.get(own, own))
    nodes = [copies[node] for node in repeated]
    copy.remove(nodes)
    names = FreshNames(graph)
    for node in nodes:
        node.name = names.fresh(node.name or node.op_type)
        for value in node.outputs:
            if value.name:
                value.name = names.fresh(value.name)
    graph.extend(nodes)
    return twins[y]


def _initializers(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.initializers.values() if not value.is_graph_input()]
