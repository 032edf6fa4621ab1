"""Sums of updates at positions of a tensor of zeros, as an embedding's gradient is."""

from __future__ import annotations

import onnx_ir as ir

from .rewriting import produced_by


def is_sum_onto_zeros(node: ir.Node | None) -> bool:
    """Whether *node* is a ScatterElements that adds its updates to nothing but zeros."""
    if node is None or node.domain != "" or node.op_type != "ScatterElements" or "reduction" not in node.attributes:
        return False
    expand = produced_by(node.inputs[0], "Expand")
    zero = expand.inputs[0] if expand is not None else None
    if node.attributes["reduction"].as_string() != "add" or zero is None or zero.is_graph_input():
        return False
    tensor = zero.const_value
    return tensor is not None and tensor.size == 1 and not tensor.numpy().any()
