"""Quantization as a step of training: a QuantizeLinear with the DequantizeLinear behind it, as one operator.

Between the two the values are integers, through which no gradient flows. `RaiseFakeQuantize` puts one node of the
operator `FakeQuantize` in the place of the pair, which takes floats to floats and which `STRAIGHT_THROUGH_RULES`
differentiates; after the differentiation, `LowerFakeQuantize` writes the pairs again. So the forward part of the
joint graph computes what the forward model does, by the same nodes:

    RaiseFakeQuantize(protected)(model)
    differentiate(model.graph, outputs, wrt, STRAIGHT_THROUGH_RULES)
    LowerFakeQuantize()(model)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from .fresh_names import FreshNames
from .rewriting import int_attribute, produced_by
from .substitution import remove_if_unused, substitute

DOMAIN = "onnxgrad"
"""The domain of FakeQuantize, which is in no model that is written."""

_OF_BOTH = ("axis", "block_size")
_OF_QUANTIZE = (*_OF_BOTH, "precision", "saturate")
_OF_DEQUANTIZE = (*_OF_BOTH, "output_dtype")


class RaiseFakeQuantize(ir.passes.InPlacePass):
    """Replace each DequantizeLinear of a QuantizeLinear by a FakeQuantize, where both have the same parameters.

    The same are: one scale and one zero point, or constants that are equal, and the same groups. Other pairs stay; so
    does a QuantizeLinear that something else reads as well, beside the FakeQuantize.

    FakeQuantize has the inputs of QuantizeLinear (x, scale, and optionally the zero point) and its attributes `axis`,
    `block_size`, `precision` and `saturate`; `quantized_dtype`, the type of the values between the two nodes; and the
    `output_dtype` of DequantizeLinear.

    Requires: the opset is the canonical one, types are inferred.
    Guarantees: values and the names of what the pairs compute stay.

    Args:
        protected: names of values that must stay, and of parameters, which are no constants.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        super().__init__()
        self._protected = protected

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        names = FreshNames(model.graph)
        for node in list(model.graph.all_nodes()):
            quantize = produced_by(node.inputs[0], "QuantizeLinear") if node.inputs else None
            if quantize is None or (node.domain, node.op_type) != ("", "DequantizeLinear"):
                continue
            if not self._undoes(node, quantize):
                continue
            _replace(node, _fake_quantize(quantize, node, names))
            if quantize.outputs[0].name not in self._protected:
                remove_if_unused(quantize)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _undoes(self, dequantize: ir.Node, quantize: ir.Node) -> bool:
        """Whether the one is the inverse of the other, up to rounding."""
        for name, default in zip(_OF_BOTH, (1, 0), strict=True):
            if int_attribute(quantize, name, default) != int_attribute(dequantize, name, default):
                return False
        return all(self._are_equal(_input(quantize, index), _input(dequantize, index)) for index in (1, 2))

    def _are_equal(self, a: ir.Value | None, b: ir.Value | None) -> bool:
        if a is b or a is None or b is None:
            return a is b
        first, second = self._constant(a), self._constant(b)
        return first is not None and second is not None and a.dtype == b.dtype and np.array_equal(first, second)

    def _constant(self, value: ir.Value) -> np.ndarray | None:
        if value.const_value is None or value.is_graph_input() or value.name in self._protected:
            return None
        return value.const_value.numpy()


class LowerFakeQuantize(ir.passes.InPlacePass):
    """Write each FakeQuantize as the pair of QuantizeLinear and DequantizeLinear that it stands for."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph.all_nodes() if (node.domain, node.op_type) == (DOMAIN, "FakeQuantize")]
        names = FreshNames(model.graph)
        for node in nodes:
            _replace(node, *_pair(node, names))
        return ir.passes.PassResult(model, bool(nodes))


def _fake_quantize(quantize: ir.Node, dequantize: ir.Node, names: FreshNames) -> ir.Node:
    dtype = quantize.outputs[0].dtype
    assert dtype is not None, "QuantizeLinear's own attributes and inputs tell its type"
    attributes = {**_chosen(quantize, _OF_QUANTIZE), **_chosen(dequantize, _OF_DEQUANTIZE)}
    attributes["quantized_dtype"] = ir.AttrInt64("quantized_dtype", dtype)
    return _node(DOMAIN, "FakeQuantize", quantize, quantize.inputs, attributes, names)


def _pair(node: ir.Node, names: FreshNames) -> tuple[ir.Node, ir.Node]:
    dtype = ir.DataType(int_attribute(node, "quantized_dtype", ir.DataType.UINT8))
    attributes = _chosen(node, _OF_QUANTIZE)
    if _input(node, 2) is None and dtype != ir.DataType.UINT8:
        attributes["output_dtype"] = ir.AttrInt64("output_dtype", dtype)
    quantize = _node("", "QuantizeLinear", node, node.inputs, attributes, names)
    quantized, x = quantize.outputs[0], node.inputs[0]
    quantized.type, quantized.shape = ir.TensorType(dtype), None if x is None else x.shape
    inputs = [quantized, *node.inputs[1:]]
    return quantize, _node("", "DequantizeLinear", node, inputs, _chosen(node, _OF_DEQUANTIZE), names)


def _node(
    domain: str,
    op_type: str,
    origin: ir.Node,
    inputs: Collection[ir.Value | None],
    attributes: Mapping[str, ir.Attr],
    names: FreshNames,
) -> ir.Node:
    """A node with one output, named after *origin*, whose metadata it carries."""
    stem = (origin.name or str(origin.outputs[0].name)).removesuffix("/FakeQuantize")
    name = names.fresh(f"{stem}/{op_type}")
    metadata = dict(origin.metadata_props)
    outputs = [ir.Value(name=name)]
    return ir.Node(domain, op_type, inputs, attributes.values(), outputs=outputs, name=name, metadata_props=metadata)


def _replace(node: ir.Node, *by: ir.Node) -> None:
    """Put other nodes in the place of *node*, the last of which computes its output and takes its name."""
    old, new = node.outputs[0], by[-1].outputs[0]
    assert node.graph is not None
    node.graph.insert_before(node, by)
    name = old.name
    substitute(old, new)
    if new.name != name:
        new.name = name


def _chosen(node: ir.Node, names: Collection[str]) -> dict[str, ir.Attr]:
    return {name: attribute for name, attribute in node.attributes.items() if name in names}


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
