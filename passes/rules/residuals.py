"""What the backward part of a subgraph reads of the forward part."""

from __future__ import annotations

import onnx_ir as ir

_RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


def read_from(backward: ir.Graph, forward: ir.Graph) -> list[ir.Value]:
    """The values of *forward* that the nodes of *backward*, inner graphs included, read, in the order they do."""
    read = (value for node in backward.all_nodes() for value in node.inputs)
    return list(dict.fromkeys(value for value in read if value is not None and value.graph is forward))


def is_random(node: ir.Node) -> bool:
    """Whether the node, run again, may give other values."""
    return node.op_type in _RANDOM


def replace_reads(backward: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let the nodes of *backward*, inner graphs included, read *new* instead of *old*."""
    for node in backward.all_nodes():
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)
