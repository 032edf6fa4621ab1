"""Softmax and LogSoftmax against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime

FUNCTIONS = [("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)]
Function = Callable[[torch.Tensor, int], torch.Tensor]


@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1, -2, None])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (4, 1)])
def test_softmax(op_type: str, function: Function, axis: int | None, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(6).uniform(-2, 2, shape)
    check_rule(
        op_type,
        [x],
        attributes={} if axis is None else {"axis": axis},
        torch_function=lambda x: function(x, -1 if axis is None else axis),
    )


@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
def test_vectors(op_type: str, function: Function) -> None:
    check_rule(op_type, [np.array([0.5, -1.0, 2.0])], torch_function=lambda x: function(x, 0))


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
def test_masked_and_saturated_rows(op_type: str, function: Function) -> None:
    """-inf where attention is masked, and logits whose exponentials overflow."""
    x = np.array([[0.0, -np.inf, 0.5], [500.0, -500.0, 499.0]])
    check_rule(op_type, [x], torch_function=lambda x: function(x, -1), finite_differences=False)


GUARDS = {
    "where NaN": "nan = IsNaN(p)  y = Where(nan, zero, p)",
    "where masked": "most = ReduceMax(x, last)  none = IsInf(most)  same = Identity(p)  y = Where(none, zero, same)",
}


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_a_row_that_is_masked_entirely_has_no_gradient(guard: str) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2, 3] x) => (float[2, 3] y) '
        f"<float zero = {{0}}, int64[1] last = {{-1}}> {{ p = Softmax(x)  {guard} }}"
    )
    x = np.array([[0.5, -np.inf, 1.0], [-np.inf] * 3], np.float32)
    seed = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    first = joint_graph(onnx.shape_inference.infer_shapes(model), ["x"], BUILTIN_RULES)
    (dx,) = run_runtime(first, {"x": x, "y.grad_output": seed})
    leaf = torch.tensor(x[:1], requires_grad=True)
    (expected,) = torch.autograd.grad(torch.softmax(leaf, 1), leaf, torch.tensor(seed[:1]))
    np.testing.assert_allclose(dx, [*expected.numpy(), [0, 0, 0]], 1e-6)
    second = joint_graph(first, ["x", "y.grad_output"], BUILTIN_RULES, suffix=".grad.grad")
    for gradient in run_runtime(second, {"x": x, "y.grad_output": seed, "x.grad.grad_output": seed}):
        assert np.all(np.isfinite(gradient))
        np.testing.assert_array_equal(gradient[1], 0)
