"""Small forward models for the tests of compiler, runtime and command line, written as ONNX text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import torch


def parse(
    graph: str, initializers: Mapping[str, np.ndarray] | None = None, *, opset: int = 20, header: str = ""
) -> onnx.ModelProto:
    """The model of *graph*, a graph (and functions) in ONNX's text syntax, with *initializers* added."""
    domains = ', "com.example" : 1' if "com.example" in graph else ""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{domains}]{header}>\n{graph}')
    for name, array in (initializers or {}).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


MLP_WEIGHTS = {
    "fc1.weight": random(5, 4, seed=1) / 2,
    "fc1.bias": random(5, seed=2) / 2,
    "fc2.weight": random(3, 5, seed=3) / 2,
    "fc2.bias": random(3, seed=4) / 2,
}


def mlp(batch: int | str = "batch") -> onnx.ModelProto:
    """x [batch, 4] → logits [batch, 3], with `hidden` [batch, 5] between."""
    return parse(
        f"""
        mlp (float[{batch}, 4] x) => (float[{batch}, 3] logits) {{
            [fc1] pre = Gemm <transB = 1> (x, "fc1.weight", "fc1.bias")
            [act] hidden = Tanh (pre)
            [fc2] logits = Gemm <transB = 1> (hidden, "fc2.weight", "fc2.bias")
        }}""",
        MLP_WEIGHTS,
        header=', producer_name: "tests", doc_string: "two layers"',
    )


def torch_mlp(x: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits as PyTorch computes them, and the tensors they depend on: x, hidden and the weights."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in MLP_WEIGHTS.items()}
    tensors["x"] = torch.tensor(x, requires_grad=True)
    tensors["hidden"] = torch.tanh(torch.nn.functional.linear(tensors["x"], tensors["fc1.weight"], tensors["fc1.bias"]))
    return torch.nn.functional.linear(tensors["hidden"], tensors["fc2.weight"], tensors["fc2.bias"]), tensors


def torch_gradients(names: list[str], x: np.ndarray, seed: np.ndarray) -> dict[str, np.ndarray]:
    """`torch.autograd.grad` of the logits of the MLP."""
    logits, tensors = torch_mlp(x)
    gradients = torch.autograd.grad(logits, [tensors[name] for name in names], torch.tensor(seed))
    return {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
