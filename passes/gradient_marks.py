"""Marks that say how gradients flow through a node, kept in its metadata so that they survive in a file."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .errors import InputError, describe
from .fresh_names import FreshNames

STOP_GRADIENT = "onnxgrad.stop_gradient"
"""Metadata key of an Identity through which no gradient flows (`torch.Tensor.detach`, `jax.lax.stop_gradient`)."""
GRADIENT_SCALE = "onnxgrad.gradient_scale"
"""Metadata key of an Identity that multiplies the cotangent by a number; -1 reverses it (Ganin & Lempitsky 2015)."""
STRAIGHT_THROUGH = "onnxgrad.straight_through"
"""Metadata key of a node whose output's cotangent is that of its first input (Bengio et al. 2013)."""

MARKS = frozenset((STOP_GRADIENT, GRADIENT_SCALE, STRAIGHT_THROUGH))


def is_marked(node: ir.Node) -> bool:
    """Whether gradients flow through *node* in another way than its operator's."""
    return not MARKS.isdisjoint(node.metadata_props)


class MarkGradients(ir.passes.InPlacePass):
    """Write marks into the graph.

    A mark on a value is an Identity behind it, which takes over its name where it can (graph inputs and initializers
    keep theirs), so that the gradient with respect to that name is what arrives at the mark.

    Args:
        stop_gradient: names and glob patterns of values.
        scale_gradient: factors by names and glob patterns of values.
        straight_through: names and glob patterns of nodes, or of the values they compute.

    Raises InputError for a name that nothing has, a factor that is no finite number, and a node whose first input and
    output differ in type or shape.
    """

    def __init__(
        self,
        stop_gradient: Sequence[str] = (),
        scale_gradient: Mapping[str, float] | None = None,
        straight_through: Sequence[str] = (),
    ) -> None:
        self._stopped = stop_gradient
        self._scaled = scale_gradient or {}
        self._straight = straight_through
        self._operators: dict[str, str] = {}
        """By the names of values, the operators that computed them when `names` was asked."""

    @property
    def any(self) -> bool:
        """Whether there is anything to mark."""
        return bool(self._straight or self._stopped or self._scaled)

    def names(self, graph: ir.Graph) -> list[str]:
        """The names of the values that are to be marked, or computed by nodes that are. Raises as the pass does."""
        values = [v for pattern in self._stopped for v in matching_values(graph, pattern, "stop_gradient")]
        values += [v for pattern in self._scaled for v in matching_values(graph, pattern, "scale_gradient")]
        nodes = [node for pattern in self._straight for node in _matching_nodes(graph, pattern)]
        self._operators = {str(value.name): node.op_type for node in nodes for value in node.outputs}
        return [*(str(value.name) for value in values), *self._operators]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, names = model.graph, FreshNames(model.graph)
        for pattern in self._straight:
            for node in _matching_nodes(graph, pattern):
                self._check_straight(node)
                node.metadata_props[STRAIGHT_THROUGH] = "1"
        for pattern in self._stopped:
            for value in matching_values(graph, pattern, "stop_gradient"):
                _put_behind(names, graph, value, STOP_GRADIENT, "1")
        for pattern, factor in self._scaled.items():
            if not isinstance(factor, int | float) or not math.isfinite(factor):
                raise InputError(f"scale_gradient: the factor of {pattern!r} is a finite number, not {factor!r}")
            for value in matching_values(graph, pattern, "scale_gradient"):
                _put_behind(names, graph, value, GRADIENT_SCALE, repr(float(factor)))
        return ir.passes.PassResult(model, self.any)

    def _check_straight(self, node: ir.Node) -> None:
        source = node.inputs[0] if node.inputs else None
        output = node.outputs[0]
        if source is None or len(node.outputs) > 1:
            raise InputError(f"straight_through: {describe(node)} does not have one input that its one output follows")
        was = self._operators.get(str(output.name), node.op_type)
        if was != node.op_type:
            raise InputError(
                f"straight_through: {was} of {output.name!r} is differentiated as several nodes, the last of which "
                f"is {describe(node)}; write it as such, and name one of them"
            )
        shapes = (source.shape, output.shape)
        types = (source.dtype, output.dtype)
        if (None not in shapes and shapes[0] != shapes[1]) or (None not in types and types[0] != types[1]):
            raise InputError(
                f"straight_through: the output of {describe(node)} is {output.dtype}{output.shape} and its input "
                f"{source.dtype}{source.shape}; a cotangent passes through only where they are alike"
            )


def matching_values(graph: ir.Graph, pattern: str, argument: str) -> list[ir.Value]:
    """The values of *graph* that have that name, or match the pattern. Raises InputError if there is none."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    named = {str(value.name): value for value in values if value.name}
    found = [named[pattern]] if pattern in named else [v for n, v in named.items() if fnmatch.fnmatchcase(n, pattern)]
    if not found:
        raise InputError(f"{argument}: nothing in the model matches {pattern!r}")
    return found


def _matching_nodes(graph: ir.Graph, pattern: str) -> list[ir.Node]:
    nodes = [node for node in graph if pattern in (node.name, *(value.name for value in node.outputs))]
    nodes = nodes or [node for node in graph if node.name and fnmatch.fnmatchcase(node.name, pattern)]
    if not nodes:
        raise InputError(f"straight_through: no node of the model matches {pattern!r}")
    return nodes


def _put_behind(names: FreshNames, graph: ir.Graph, value: ir.Value, mark: str, content: str) -> None:
    """Let all that reads *value* read a marked Identity of it."""
    readers = list(value.uses())
    node = ir.node(
        "Identity",
        [value],
        name=names.fresh(f"{value.name}/{mark.rpartition('.')[2]}"),
        metadata_props={mark: content},
        outputs=[ir.Value(type=value.type, shape=value.shape)],
    )
    behind, producer = node.outputs[0], value.producer()
    for reader, index in readers:
        reader.replace_input_with(index, behind)
    graph.outputs[:] = [behind if each is value else each for each in graph.outputs]
    for inner in graph.subgraphs():
        inner.outputs[:] = [behind if each is value else each for each in inner.outputs]
    if producer is None:
        behind.name = names.fresh(f"{value.name}.{mark.rpartition('.')[2]}")
        first = next(iter(graph), None)
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)
    else:
        behind.name = value.name
        value.name = names.fresh(f"{behind.name}.before")
        graph.insert_after(producer, node)
