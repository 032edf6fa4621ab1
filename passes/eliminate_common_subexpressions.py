"""What is computed twice from the same values is computed once."""

from __future__ import annotations

from collections.abc import Collection, Hashable

import numpy as np
import onnx_ir as ir

from .element_types import FLOATS
from .gradient_marks import is_marked
from .subgraphs import all_graphs
from .substitution import can_take_name, remove_if_unused, substitute

RECOMPUTE = "onnxgrad.recompute"
"""Metadata key of a node that computes a forward value again on purpose, to save memory."""

LARGEST_COMPARED_CONSTANT = 4096
"""The most elements of constants that are compared by their contents."""

_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
_COMMUTATIVE = frozenset("Add And BitwiseAnd BitwiseOr BitwiseXor Equal Mul Or Xor".split())


class EliminateCommonSubexpressions(ir.passes.InPlacePass):
    """Merge nodes of the same operator, attributes and inputs; the earlier one, of the forward part, is kept.

    Integer and bool constants, and float scalars, of equal contents are merged first. Float constants of more
    elements are left alone: two weights that start out equal are still two weights.

    Args:
        protected: names of values that must stay values of their own.

    Guarantees: names of graph outputs stay (two equal ones: one becomes an Identity of the other). Never merged
    are random nodes (Dropout in training mode among them), nodes with subgraphs, nodes of other domains than
    ONNX's own, which may have a state, and nodes
    marked as recomputation or for how gradients flow through them.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = self._merge_constants(model.graph)
        for graph in list(all_graphs(model.graph)):
            modified |= self._merge_nodes(graph)
        return ir.passes.PassResult(model, modified)

    def _merge_constants(self, graph: ir.Graph) -> bool:
        modified = False
        kept: dict[Hashable, ir.Value] = {}
        for name, value in list(graph.initializers.items()):
            if value.is_graph_input() or value.is_graph_output() or name in self._protected:
                continue
            contents = _contents(value.const_value)
            if contents is None:
                continue
            first = kept.setdefault(contents, value)
            if first is not value:
                value.replace_all_uses_with(first)
                del graph.initializers[name]
                modified = True
        return modified

    def _merge_nodes(self, graph: ir.Graph) -> bool:
        modified = False
        kept: dict[Hashable, ir.Node] = {}
        for node in list(graph):
            key = _expression(node)
            if key is None or not self._protected.isdisjoint([output.name for output in node.outputs]):
                continue
            first = kept.setdefault(key, node)
            if first is not node and self._merge(node, first):
                modified = True
        return modified

    def _merge(self, node: ir.Node, first: ir.Node) -> bool:
        pairs = [
            (output, same)
            for output, same in zip(node.outputs, first.outputs, strict=False)
            if output.uses() or output.is_graph_output()
        ]
        if any(output.uses() or output.is_graph_output() for output in node.outputs[len(first.outputs) :]):
            return False
        if node.op_type == "Identity" and not all(
            not output.is_graph_output() or can_take_name(same, output, self._protected) for output, same in pairs
        ):
            return False
        for output, same in pairs:
            substitute(output, same, self._protected)
        if node.graph is not None:
            remove_if_unused(node)
        return True


def is_random(node: ir.Node) -> bool:
    """Whether *node* may give something else each time (Dropout where it is told whether it trains)."""
    if node.op_type == "Dropout":
        return len(node.inputs) > 2 and node.inputs[2] is not None
    return node.op_type in _RANDOM


def _expression(node: ir.Node) -> Hashable | None:
    """What *node* computes, equal for nodes that compute the same; None if it is never merged."""
    if node.domain not in ("", "ai.onnx.ml") or is_random(node):
        return None
    if RECOMPUTE in node.metadata_props or is_marked(node):
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.data.items()):
        value = _attribute_value(attribute)
        if value is None:
            return None
        attributes.append((name, value))
    inputs = [0 if value is None else id(value) for value in node.inputs]
    while inputs and inputs[-1] == 0:
        inputs.pop()
    if node.op_type in _COMMUTATIVE:
        inputs.sort()
    return node.op_identifier(), tuple(inputs), tuple(attributes)


def _attribute_value(attribute: ir.Attr) -> Hashable | None:
    if attribute.is_ref():
        return None
    match attribute.type:
        case ir.AttributeType.FLOAT | ir.AttributeType.INT | ir.AttributeType.STRING:
            return attribute.type, repr(attribute.value)  # repr: -0.0 is not 0.0
        case ir.AttributeType.FLOATS | ir.AttributeType.INTS | ir.AttributeType.STRINGS:
            return attribute.type, repr(tuple(attribute.value))
        case ir.AttributeType.TENSOR:
            return _bytes(attribute.as_tensor())
    return None


def _contents(tensor: ir.TensorProtocol | None) -> Hashable | None:
    """What a constant holds; None if it is too large to compare or may be a weight."""
    if tensor is None or (tensor.dtype in FLOATS and tensor.size > 1):
        return None
    return _bytes(tensor)


def _bytes(tensor: ir.TensorProtocol) -> Hashable | None:
    if tensor.size > LARGEST_COMPARED_CONSTANT or tensor.dtype == ir.DataType.STRING:
        return None
    array = np.ascontiguousarray(tensor.numpy())
    return tensor.dtype, tuple(tensor.shape), array.tobytes()
