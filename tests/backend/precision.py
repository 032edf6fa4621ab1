"""A model and its data in another precision: float64 for an oracle, float32 where the runtime has no other kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)

_TYPE_ATTRIBUTES = {
    ("Attention", "softmax_precision"),
    ("Bernoulli", "dtype"),
    ("BlackmanWindow", "output_datatype"),
    ("Cast", "to"),
    ("DequantizeLinear", "output_dtype"),
    ("EyeLike", "dtype"),
    ("HammingWindow", "output_datatype"),
    ("HannWindow", "output_datatype"),
    ("MelWeightMatrix", "output_datatype"),
    ("QuantizeLinear", "precision"),
    ("RandomNormal", "dtype"),
    ("RandomNormalLike", "dtype"),
    ("RandomUniform", "dtype"),
    ("RandomUniformLike", "dtype"),
    ("SequenceEmpty", "dtype"),
}
"""Attributes that name an element type."""

_DEFAULT_TYPES = {
    "BlackmanWindow": "output_datatype",
    "HammingWindow": "output_datatype",
    "HannWindow": "output_datatype",
    "MelWeightMatrix": "output_datatype",
    "SequenceEmpty": "dtype",
}
"""Operators where such an attribute means float32 if it is left out (ONNX operator specification)."""


def in_precision(model: onnx.ModelProto, dtype: type[np.floating[Any]]) -> onnx.ModelProto:
    """A copy of *model* in which every float is a *dtype*: inputs, weights, constants, casts and inner precisions."""
    wanted = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _retype_graph(copy.graph, wanted)
    for function in copy.functions:
        _retype_nodes(function.node, wanted)
    return copy


def as_precision(data: Mapping[str, Any], dtype: type[np.floating[Any]]) -> dict[str, Any]:
    """*data* with every float array, also those of sequences, in *dtype*."""
    return {name: _as_precision(value, dtype) for name, value in data.items()}


def is_float_array(value: Any) -> bool:
    """Whether *value* is an array of floats of 16 bits or more."""
    return isinstance(value, np.ndarray) and value.dtype.name in ("float16", "bfloat16", "float32", "float64")


def _as_precision(value: Any, dtype: type[np.floating[Any]]) -> Any:
    if isinstance(value, list):
        return [_as_precision(item, dtype) for item in value]
    return value.astype(dtype) if is_float_array(value) else value


def _retype_graph(graph: onnx.GraphProto, wanted: int) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _retype_type(value.type, wanted)
    for tensor in graph.initializer:
        _retype_tensor(tensor, wanted)
    for sparse in graph.sparse_initializer:
        _retype_tensor(sparse.values, wanted)
    _retype_nodes(graph.node, wanted)


def _retype_type(kind: onnx.TypeProto, wanted: int) -> None:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        _retype_type(kind.sequence_type.elem_type, wanted)
    elif which == "optional_type":
        _retype_type(kind.optional_type.elem_type, wanted)
    elif which == "tensor_type" and kind.tensor_type.elem_type in FLOATS:
        kind.tensor_type.elem_type = wanted


def _retype_tensor(tensor: onnx.TensorProto, wanted: int) -> None:
    if tensor.data_type in FLOATS and tensor.data_type != wanted:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(wanted))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _retype_nodes(nodes: Iterable[onnx.NodeProto], wanted: int) -> None:
    for node in nodes:
        given = {attribute.name for attribute in node.attribute}
        if node.op_type == "Constant" and not given.isdisjoint(("value_float", "value_floats")):
            (attribute,) = node.attribute
            number = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(np.array(number, np.float32))))
        if node.op_type == "ConstantOfShape" and not given:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, np.float32))))
        default = _DEFAULT_TYPES.get(node.op_type)
        if default is not None and default not in given and node.domain in ("", "ai.onnx"):
            node.attribute.append(helper.make_attribute(default, wanted))
        for attribute in node.attribute:
            if (node.op_type, attribute.name) in _TYPE_ATTRIBUTES and attribute.i in FLOATS:
                attribute.i = wanted
            _retype_tensor(attribute.t, wanted)
            if attribute.HasField("g"):
                _retype_graph(attribute.g, wanted)
            for graph in attribute.graphs:
                _retype_graph(graph, wanted)
            if attribute.HasField("tp"):
                _retype_type(attribute.tp, wanted)
