"""The arithmetic of a forward model: the convolutions and matrix products, which the rest is small against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

Shape = tuple[int, ...]


def forward_flops(path: Path) -> int:
    """Two for each multiplication and addition of Conv, ConvTranspose, Gemm, MatMul and LSTM nodes.

    Raises ValueError if a shape that counts is not known.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    graph = model.graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return sum(_node_flops(node, shapes) for node in graph.node)


def _node_flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    count = _COUNTS.get(node.op_type)
    if count is None:
        return 0
    inputs, output = [shapes.get(name, (0,)) for name in node.input if name], shapes.get(node.output[0], (0,))
    flops = count(node, inputs, output)
    if flops == 0:
        raise ValueError(f"The shapes of {node.name} ({node.op_type}) are not known: {inputs} to {output}")
    return flops


def _conv(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * math.prod(inputs[1][1:])


def _conv_transpose(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return 2 * math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _matmul(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    transposed = any(a.name == "transA" and helper.get_attribute_value(a) for a in node.attribute)
    return 2 * math.prod(output) * inputs[0][0 if transposed else 1]


def _lstm(node: onnx.NodeProto, inputs: list[Shape], output: Shape) -> int:
    steps, batch, _ = inputs[0]
    return 2 * steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


_COUNTS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm, "LSTM": _lstm}
