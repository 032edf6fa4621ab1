"""A model in double precision, for an evaluator whose rounding must not be seen."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .subgraphs import all_graphs

FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})

_TYPE_ATTRIBUTES = {
    ("Attention", "softmax_precision"),
    ("Bernoulli", "dtype"),
    ("Cast", "to"),
    ("DequantizeLinear", "output_dtype"),
    ("EyeLike", "dtype"),
    ("HammingWindow", "output_datatype"),
    ("HannWindow", "output_datatype"),
    ("BlackmanWindow", "output_datatype"),
    ("MelWeightMatrix", "output_datatype"),
    ("SequenceEmpty", "dtype"),
}
"""Attributes that name an element type."""


class CastToFloat64(ir.passes.InPlacePass):
    """Make every float of the model a double: inputs, weights, constants, what casts cast to, inner precisions.

    Requires: functions are inlined. Guarantees: the same nodes compute the same values, in float64.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for graph in all_graphs(model.graph):
            values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
            for value in values:
                if value.dtype in FLOATS:
                    value.type = _in_doubles(value.type)
                if value.const_value is not None and value.const_value.dtype in FLOATS:
                    value.const_value = _in_float64(value.const_value)
            for node in graph:
                _retype(node)
        return ir.passes.PassResult(model, True)


def _retype(node: ir.Node) -> None:
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1)))
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in FLOATS:
            node.attributes[name] = ir.AttrTensor(name, _in_float64(attribute.as_tensor()))
        elif node.op_type == "Constant" and name in ("value_float", "value_floats"):
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array(attribute.value, np.float64)))
        elif (node.op_type, name) in _TYPE_ATTRIBUTES and attribute.as_int() in FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.DOUBLE))


def _in_doubles(kind: ir.TypeProtocol | None) -> ir.TypeProtocol:
    """The type with another element type: a new object, as clones of a model share theirs."""
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_in_doubles(kind.elem_type))
    return ir.TensorType(ir.DataType.DOUBLE)


def _in_float64(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float64), name=tensor.name)
