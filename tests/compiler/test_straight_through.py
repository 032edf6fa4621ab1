"""Quantization-aware training: what `straight_through` compiles, against PyTorch's fake quantization."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import onnxgrad
from tests.compiler.forward_models import parse, random

X, W = random(5, 4), random(4, 3, seed=1) * np.float32(0.4)
SCALE = np.array([0.01, 0.02, 0.001], np.float32)
ZERO = np.array([0, 3, -7], np.int8)
GRAPH = """g (float[N,4] x) => (float[N,3] y) <float xs = {0.05}, uint8 xz = {120}> {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wq = QuantizeLinear <axis = 1> ("fc.weight", ws, wz)
    wd = DequantizeLinear <axis = 1> (wq, ws, wz)
    m = MatMul (xd, wd)
    y = Tanh (m)
}"""


def model() -> onnx.ModelProto:
    return parse(GRAPH, {"fc.weight": W, "ws": SCALE, "wz": ZERO})


def test_gradients_are_those_of_fake_quantization() -> None:
    program = onnxgrad.compile(model(), straight_through=True)
    assert list(program.parameters) == ["fc.weight"]
    seed = random(5, 3, seed=2)
    values, gradients = program.session().value_and_grad({"x": X}, {"y": seed})

    w = torch.tensor(W, requires_grad=True)
    scale, zero = torch.tensor(SCALE), torch.tensor(ZERO.astype(np.int32))
    wd = torch.fake_quantize_per_channel_affine(w, scale, zero, 1, -128, 127)
    y = torch.tanh(torch.fake_quantize_per_tensor_affine(torch.tensor(X), 0.05, 120, 0, 255) @ wd)
    (expected,) = torch.autograd.grad(y, w, torch.tensor(seed))
    np.testing.assert_allclose(values["y"], y.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients["fc.weight"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert np.any(expected.numpy() == 0), "some weights are out of range"


def test_the_joint_graph_quantizes_by_the_nodes_of_the_model() -> None:
    program = onnxgrad.compile(model(), straight_through=True)
    assert {node.domain for node in program.model.graph} == {""}
    assert [node.op_type for node in program.model.graph].count("DequantizeLinear") >= 2


def test_without_it_the_message_says_that_there_is_it() -> None:
    with pytest.raises(onnxgrad.UnsupportedError, match="straight_through=True"):
        onnxgrad.compile(model(), wrt="fc.weight")
