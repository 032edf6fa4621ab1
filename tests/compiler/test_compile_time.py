"""Compiling takes time in proportion to the number of nodes."""

from __future__ import annotations

import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxgrad

WIDTH = 4


def residual_network(blocks: int) -> onnx.ModelProto:
    """Blocks of x + relu(norm(x W + b)), of five nodes and four parameters each."""
    random = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for index in range(blocks):
        block = f"block{index}"
        shapes = {"weight": (WIDTH, WIDTH), "bias": WIDTH, "norm.weight": WIDTH, "norm.bias": WIDTH}
        weights += [
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), f"{block}.{name}")
            for name, shape in shapes.items()
        ]
        norm = [f"{block}.sum", f"{block}.norm.weight", f"{block}.norm.bias"]
        nodes += [
            helper.make_node("MatMul", [x, f"{block}.weight"], [f"{block}.product"]),
            helper.make_node("Add", [f"{block}.product", f"{block}.bias"], [f"{block}.sum"]),
            helper.make_node("LayerNormalization", norm, [f"{block}.normal"]),
            helper.make_node("Relu", [f"{block}.normal"], [f"{block}.relu"]),
            helper.make_node("Add", [x, f"{block}.relu"], [f"{block}.y"]),
        ]
        x = f"{block}.y"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in ("x", x)]
    graph = helper.make_graph(nodes, "residual", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def seconds_to_compile(blocks: int) -> float:
    model = residual_network(blocks)
    start = time.process_time()
    program = onnxgrad.compile(model)
    seconds = time.process_time() - start
    assert len(program.parameters) == 4 * blocks
    return seconds


def test_compile_time_is_linear() -> None:
    seconds_to_compile(1)  # imports
    few, many = min(seconds_to_compile(80) for _ in range(2)), seconds_to_compile(480)
    assert many < 12 * few  # 6 would be exact, 36 quadratic
