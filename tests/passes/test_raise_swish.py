"""RaiseSwish and WriteInParts, which takes it back and shares what the backward part computes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from torch import nn

import onnxgrad
from onnxgrad.passes.raise_swish import RaiseSwish
from onnxgrad.passes.write_in_parts import WriteInParts

from .running import check_pass, only, operators, parse

X = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32) * 10


@pytest.mark.parametrize("product", ["Mul (x, s)", "Mul (s, x)"])
def test_there_and_back(product: str) -> None:
    model = parse(f"g (float[2,n,5] x) => (float[2,n,5] y) {{ s = Sigmoid (x)  y = {product} }}")
    (before,) = onnx.reference.ReferenceEvaluator(_proto(model)).run(None, {"x": X})
    assert RaiseSwish().call(model).modified
    assert operators(model) == ["Swish"]
    assert WriteInParts().call(model).modified
    assert operators(model) == ["Sigmoid", "Mul"]
    (after,) = onnx.reference.ReferenceEvaluator(_proto(model)).run(None, {"x": X})
    np.testing.assert_array_equal(after, before)


def test_its_alpha() -> None:
    model = parse("g (float[2,4,5] x) => (float[2,4,5] y) { y = Swish <alpha = 1.5> (x) }")
    assert WriteInParts().call(model).modified
    (result,) = onnx.reference.ReferenceEvaluator(_proto(model)).run(None, {"x": X})
    np.testing.assert_allclose(result, X / (1 + np.exp(-1.5 * X.astype(np.float64))), rtol=1e-5)


def test_the_gate_of_another_value_is_no_swish() -> None:
    model = parse("g (float[2,4,5] x, float[2,4,5] z) => (float[2,4,5] y) { s = Sigmoid (z)  y = Mul (x, s) }")
    assert not check_pass(RaiseSwish(), model, {"x": X, "z": X})


def test_statistics_are_written_out_only_where_something_else_reads_them() -> None:
    norm = "y = InstanceNormalization (x, scale, bias)"
    constants = "<float[4] scale = {1, 2, 3, 4}, float[4] bias = {0, 1, 2, 3}, int64[1] last = {2}>"
    alone = parse(f"g (float[2,4,5] x) => (float[2,4,5] y) {constants} {{ {norm} }}")
    assert not check_pass(WriteInParts(), alone, {"x": X})
    text = f"g (float[2,4,5] x) => (float[2,4,5] y, float[2,4,1] m) {constants} {{ m = ReduceMean (x, last)  {norm} }}"
    shared = parse(text)
    assert check_pass(WriteInParts(), shared, {"x": X}, rtol=1e-5, atol=1e-5)
    assert only(shared, "Sqrt")


def test_group_norm_and_silu_compute_nothing_twice() -> None:
    """As torch.onnx writes them: one sigmoid and two means forward; backward are sums over each channel."""
    program = onnxgrad.compile(_exported(), wrt="inputs")
    counts = Counter(node.op_type for node in program.model.graph)
    assert counts["Sigmoid"] == 1
    assert counts["ReduceMean"] == 2
    assert counts["InstanceNormalization"] == 0


@pytest.mark.parametrize("offset", [0.0, 100.0, 1000.0])
def test_group_norm_far_from_zero(offset: float) -> None:
    """Where the mean is large beside the deviation, at most twice the error of PyTorch's own float32."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((3, 4, 6, 7)) + offset).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    gradient = onnxgrad.compile(_exported(), wrt="inputs").session(providers=["CPUExecutionProvider"])
    ours = gradient.grad({"x": x}, {"y": dy})["x"]
    expected, theirs = (_torch_gradient(x, dy, dtype) for dtype in (torch.float64, torch.float32))
    assert np.abs(ours - expected).max() <= 2 * np.abs(theirs - expected).max() + 1e-6


def _exported() -> onnx.ModelProto:
    """GroupNorm of two groups, then SiLU."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[n,4,6,7] x) => (float[n,4,6,7] y)
    <int64[3] groups = {0, 2, -1}, float[2] ones = {1, 1}, float[2] zeros = {0, 0}, int64[4] whole = {-1, 4, 6, 7},
     float[4,1,1] scale = {0.5, 1.5, -1, 2}, float[4,1,1] bias = {0.1, 0.2, 0.3, -0.4}> {
        r = Reshape (x, groups)  i = InstanceNormalization (r, ones, zeros)  b = Reshape (i, whole)
        m = Mul (b, scale)  a = Add (m, bias)  s = Sigmoid (a)  y = Mul (a, s)
    }"""
    return onnx.parser.parse_model(text)


def _torch_gradient(x: np.ndarray, dy: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    module = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU()).to(dtype)
    group_norm = module[0]
    assert isinstance(group_norm, nn.GroupNorm)
    with torch.no_grad():
        group_norm.weight.copy_(torch.tensor([0.5, 1.5, -1, 2]))
        group_norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3, -0.4]))
    primal = torch.tensor(x, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(primal), primal, torch.tensor(dy, dtype=dtype))
    return gradient.numpy().astype(np.float64)


def _proto(model: ir.Model) -> onnx.ModelProto:
    return ir.to_proto(model)
