"""Sequences and optional values at a model's border become tensors, which have gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Data = np.ndarray | list[Any] | None
"""A tensor, a sequence, or an optional value that is absent."""


def unpack_inputs(model: onnx.ModelProto, data: dict[str, Data]) -> dict[str, Data]:
    """Let *model* take the tensors of its sequence and optional inputs one by one; gives their values by name."""
    result: dict[str, Data] = {}
    nodes: list[onnx.NodeProto] = []
    inputs = [_unpack_input(value, data[value.name], result, nodes) for value in model.graph.input]
    graph = model.graph
    kept = [*nodes, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.extend(value for group in inputs for value in group)
    graph.node.extend(kept)
    return result


def unpack_outputs(model: onnx.ModelProto, data: dict[str, Data]) -> dict[str, Data]:
    """Let *model* give the tensors of its sequence and optional outputs one by one, as many as *data* has."""
    result: dict[str, Data] = {}
    outputs = [_unpack_output(value, data[value.name], result, model.graph) for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(value for group in outputs for value in group)
    return result


def _unpack_input(
    value: onnx.ValueInfoProto, data: Data, result: dict[str, Data], nodes: list[onnx.NodeProto]
) -> list[onnx.ValueInfoProto]:
    kind = value.type.WhichOneof("value")
    if kind == "optional_type":
        inner = value.type.optional_type.elem_type
        if data is None:
            nodes.append(helper.make_node("Optional", [], [value.name], type=inner))
            return []
        part = helper.make_value_info(f"{value.name}.value", inner)
        parts = _unpack_input(part, data, result, nodes)
        nodes.append(helper.make_node("Optional", [part.name], [value.name]))
        return parts
    if kind == "sequence_type":
        assert isinstance(data, list)
        inner = _of_any_size(value.type.sequence_type.elem_type)
        if not data:
            nodes.append(helper.make_node("SequenceEmpty", [], [value.name], dtype=inner.tensor_type.elem_type))
            return []
        each = [helper.make_value_info(f"{value.name}.{index}", inner) for index in range(len(data))]
        groups = [_unpack_input(part, item, result, nodes) for part, item in zip(each, data, strict=True)]
        nodes.append(helper.make_node("SequenceConstruct", [part.name for part in each], [value.name]))
        return [part for group in groups for part in group]
    result[value.name] = data
    return [_with_shape(value, data)]


def _unpack_output(
    value: onnx.ValueInfoProto, data: Data, result: dict[str, Data], graph: onnx.GraphProto
) -> list[onnx.ValueInfoProto]:
    kind = value.type.WhichOneof("value")
    if kind == "optional_type" and data is not None:
        part = helper.make_value_info(f"{value.name}.value", value.type.optional_type.elem_type)
        graph.node.append(helper.make_node("OptionalGetElement", [value.name], [part.name]))
        return _unpack_output(part, data, result, graph)
    if kind == "sequence_type" and data:
        assert isinstance(data, list)
        parts = []
        for index, item in enumerate(data):
            inner = _of_any_size(value.type.sequence_type.elem_type)
            part = helper.make_value_info(f"{value.name}.{index}", inner)
            position = numpy_helper.from_array(np.array(index))
            graph.node.append(helper.make_node("Constant", [], [f"{part.name}.position"], value=position))
            graph.node.append(helper.make_node("SequenceAt", [value.name, f"{part.name}.position"], [part.name]))
            parts += _unpack_output(part, item, result, graph)
        return parts
    result[value.name] = data
    return [_with_shape(value, data)]


def _of_any_size(element: onnx.TypeProto) -> onnx.TypeProto:
    """Without the names of dims: what stands for one size in a sequence's type is of each element another."""
    result = onnx.TypeProto()
    result.CopyFrom(element)
    for dim in result.tensor_type.shape.dim:
        if dim.dim_param:
            dim.Clear()
    return result


def _with_shape(value: onnx.ValueInfoProto, data: Data) -> onnx.ValueInfoProto:
    """Sequences declare no shapes for their tensors, but a model's inputs and outputs have one."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.HasField("shape") or not isinstance(data, np.ndarray):
        return value
    return helper.make_tensor_value_info(value.name, tensor.elem_type, data.shape)
