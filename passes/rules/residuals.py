"""What the backward part of a subgraph reads of the forward part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from ..eliminate_common_subexpressions import is_random
from ..subgraphs import all_graphs
from ..substitution import subgraphs_of
from ..tape import Tape


def read_from(backward: ir.Graph, forward: ir.Graph) -> list[ir.Value]:
    """The values of *forward* that the nodes of *backward*, inner graphs included, read, in the order they do."""
    read = (value for node in backward.all_nodes() for value in node.inputs)
    return list(dict.fromkeys(value for value in read if value is not None and value.graph is forward))


def draws_random_values(node: ir.Node) -> bool:
    """Whether the node, or one in its subgraphs, run again, may give other values."""
    graphs = [inner for each in node.attributes.values() for graph in subgraphs_of(each) for inner in all_graphs(graph)]
    return any(is_random(each) for each in (node, *(inner for graph in graphs for inner in graph)))


def run_again(backward: Tape, node: ir.Node, copies: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, ir.Value]:
    """Emit *node* of the forward part once more, to read *copies* of what it reads; the copies of its outputs."""
    attributes: dict[str, Any] = dict(node.attributes)
    for name, attribute in node.attributes.items():
        if subgraphs_of(attribute):
            attributes[name] = graph = attribute.as_graph().clone(allow_outer_scope_values=True)
            for old, new in copies.items():
                replace_reads(graph, old, new)
    inputs = [None if value is None else backward.tensor(copies.get(value, value)) for value in node.inputs]
    outputs = backward.emit_many(node.op_type, *inputs, outputs=len(node.outputs), domain=node.domain, **attributes)
    repeated = {old: tensor.value for old, tensor in zip(node.outputs, outputs, strict=True)}
    for old, value in repeated.items():
        value.type, value.shape = value.type or old.type, value.shape or old.shape
    return repeated


def replace_reads(backward: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let the nodes of *backward*, inner graphs included, read *new* instead of *old*, and their graphs give it."""
    for node in backward.all_nodes():
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)
    for graph in all_graphs(backward):
        if old in graph.outputs:
            graph.outputs[:] = [new if value is old else value for value in graph.outputs]
