"""How a node's subgraphs connect with the graph around them: what they capture, and how a loop's body is bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import onnx_ir as ir

from .substitution import subgraphs_of

KEEPS_NOTHING = "onnxgrad.keeps_nothing"
"""Metadata key of a Scan without states whose backward part runs the body again, rather than to keep its values."""

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def captured_values(node: ir.Node) -> list[ir.Value]:
    """The values of outer graphs that the subgraphs of *node* read, each once, in the order they are read."""
    attributes = node.attributes.data.values()
    graphs = [graph for attribute in attributes if attribute.type in _GRAPHS for graph in subgraphs_of(attribute)]
    if not graphs:
        return []
    inside = {*graphs, *(inner for graph in graphs for inner in graph.subgraphs())}
    read = [value for graph in graphs for each in graph.all_nodes() for value in each.inputs]
    read += [value for graph in inside for value in graph.outputs]
    return list(dict.fromkeys(value for value in read if value is not None and value.graph not in inside))


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """*graph* and the subgraphs in it, each before those in it.

    What `graph.subgraphs()` gives, in a fraction of the time.
    """
    yield graph
    for node in graph:
        for attribute in node.attributes.data.values():  # the dict itself, as what wraps it takes longer than the rest
            if attribute.type in _GRAPHS:
                for inner in subgraphs_of(attribute):
                    yield from all_graphs(inner)


@dataclass(frozen=True)
class State:
    """A value that each iteration takes from the one before: the first takes *initial*, the last leaves *final*."""

    index: int
    """Of the node's input; the same for all values below."""
    initial: ir.Value
    at_start: ir.Value
    at_end: ir.Value
    final: ir.Value


@dataclass(frozen=True)
class Stack:
    """A value of the body, one for each iteration, that is a slice of *stacked*, which the node reads or gives."""

    index: int
    """Of the node's input or output."""
    stacked: ir.Value
    slice: ir.Value
    axis: int
    direction: int
    """0 if the first iteration has the first slice, 1 if it has the last."""


@dataclass(frozen=True)
class Iteration:
    """A Scan or a Loop (ONNX operators, Scan-11 and Loop-13): what its body's inputs and outputs stand for."""

    node: ir.Node
    body: ir.Graph
    states: tuple[State, ...]
    read: tuple[Stack, ...]
    given: tuple[Stack, ...]

    @classmethod
    def of(cls, node: ir.Node) -> Self:
        body = node.attributes["body"].as_graph()
        # A Loop's body also takes the number of the iteration and the condition, and gives the condition.
        first, skipped = (2, 1) if node.op_type == "Loop" else (0, 0)
        slices = node.attributes["num_scan_inputs"].as_int() if node.op_type == "Scan" else 0
        inputs, ends = list(node.inputs), list(body.outputs)[skipped:]
        count = len(inputs) - first - slices
        states = []
        for offset in range(count):
            initial = inputs[first + offset]
            assert initial is not None
            at_start, at_end, final = body.inputs[first + offset], ends[offset], node.outputs[offset]
            states.append(State(first + offset, initial, at_start, at_end, final))
        read = []
        for index in range(first + count, len(inputs)):
            stacked = inputs[index]
            assert stacked is not None
            axis, direction = _layout(node, "scan_input", index - count, stacked)
            read.append(Stack(index, stacked, body.inputs[index], axis, direction))
        given = []
        for index in range(count, len(node.outputs)):
            axis, direction = _layout(node, "scan_output", index - count, node.outputs[index])
            given.append(Stack(index, node.outputs[index], ends[index], axis, direction))
        return cls(node, body, tuple(states), tuple(read), tuple(given))


def _layout(node: ir.Node, kind: str, index: int, stacked: ir.Value) -> tuple[int, int]:
    """The axis along which a Scan's input or output is stacked, and the direction."""
    axes, directions = (node.attributes.get(f"{kind}_{name}") for name in ("axes", "directions"))
    axis = 0 if axes is None else axes.as_ints()[index]
    if axis < 0:
        assert stacked.shape is not None
        axis += len(stacked.shape)
    return axis, 0 if directions is None else directions.as_ints()[index]
