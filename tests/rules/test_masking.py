"""Masks of cotangents: products with the mask where that is exact, else Where."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import onnxgrad

WEIGHT = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)


def compiled(body: str, output: str) -> onnxgrad.Program:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[n,3,5,5] x) => (float[{output}] y) <float lower = {{0}}, float upper = {{1}}> {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    return onnxgrad.compile(model, wrt="inputs")


@pytest.mark.parametrize(
    ("activation", "function"),
    [("Relu (x)", torch.relu), ("Clip (x, lower, upper)", lambda x: x.clamp(0, 1)), ("Clip (x, lower)", torch.relu)],
)
@pytest.mark.parametrize("pooled", [False, True])
def test_in_front_of_a_convolution(activation: str, function: object, pooled: bool) -> None:
    pool = "p = MaxPool <kernel_shape = [2, 2], strides = [1, 1]> (a)" if pooled else "p = Identity (a)"
    program = compiled(f"a = {activation}  {pool}  c = Conv (p, w)  y = Add (c, c)", "n,4,m,k")
    assert "Where" not in Counter(node.op_type for node in program.model.graph)
    x = np.random.default_rng(2).uniform(-2, 2, (2, 3, 5, 5)).astype(np.float32)
    weight = torch.tensor(
        next(v.const_value.numpy() for v in program.model.graph.initializers.values() if v.name == "w")
    )
    primal = torch.tensor(x, requires_grad=True)
    hidden = function(primal)  # type: ignore[operator]
    y = 2 * F.conv2d(F.max_pool2d(hidden, 2, stride=1) if pooled else hidden, weight)
    dy = torch.ones_like(y)
    (expected,) = torch.autograd.grad(y, primal, dy)
    session = program.session(providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.grad({"x": x}, {"y": dy.numpy()})["x"], expected, rtol=1e-5, atol=1e-6)


def test_what_may_be_infinite_behind_the_mask_is_not_let_through() -> None:
    program = compiled("a = Relu (x)  y = Sqrt (a)", "n,3,5,5")
    x = np.full((1, 3, 5, 5), -1, dtype=np.float32)
    session = program.session(providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.grad({"x": x}, {"y": np.ones_like(x)})["x"], np.zeros_like(x))
