"""How the time to compile grows with the forward model: residual networks of as many nodes as are asked for."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxgrad

WIDTH = 4
NODES_OF_A_BLOCK = 5


@dataclass(frozen=True)
class CompileTime:
    """Nodes of a forward model, and the seconds from its file to that of its joint graph."""

    nodes: int
    seconds: float

    @property
    def of_a_thousand(self) -> float:
        """Seconds for each 1,000 nodes."""
        return self.seconds / self.nodes * 1000


def time_to_compile(nodes: int) -> CompileTime:
    """Compile a residual network of at least *nodes* nodes."""
    model = residual_network(-(-nodes // NODES_OF_A_BLOCK))
    with tempfile.TemporaryDirectory() as folder:
        forward, joint = Path(folder) / "model.onnx", Path(folder) / "model.train.onnx"
        onnx.save(model, forward)
        start = perf_counter()
        onnxgrad.compile(forward).save(joint)
        return CompileTime(len(model.graph.node), perf_counter() - start)


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
