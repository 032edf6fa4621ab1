"""PoolBeforeRelu: the same values, and the gradients of PyTorch, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import onnxgrad
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.tape import Tensor


def relu_and_pool(outputs: str = "float[2,3,n,m] y", extra: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 20]> one (float[2,3,9,8] x) => ({outputs}) {{
            r = Relu(x)
            y{extra} = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r)
        }}"""
    )


def order(program: onnxgrad.Program) -> list[str]:
    return [node.op_type for node in program.model.graph if node.op_type in ("Relu", "MaxPool")]


@pytest.mark.parametrize("levels", [2, 5, 1000], ids=lambda levels: f"{levels} levels")
def test_gradients_are_those_of_torch(levels: int) -> None:
    random = np.random.default_rng(0)
    x = (random.integers(-levels, levels + 1, (2, 3, 9, 8)) / levels).astype(np.float32)
    program = onnxgrad.compile(relu_and_pool(), wrt="inputs")
    assert order(program) == ["MaxPool", "Relu"]
    signal = torch.tensor(x, requires_grad=True)
    y = F.max_pool2d(torch.relu(signal), 3, 2, 1)
    dy = random.standard_normal(y.shape).astype(np.float32)
    y.backward(torch.tensor(dy))
    outputs, gradients = program.session().value_and_grad({"x": x}, {"y": dy})
    np.testing.assert_array_equal(outputs["y"], y.detach())
    np.testing.assert_array_equal(gradients["x"], signal.grad)


def test_nodes_keep_their_names() -> None:
    model = relu_and_pool()
    for node, name in zip(model.graph.node, ("activation", "pooling"), strict=True):
        node.name = name
    nodes = {node.name: node.op_type for node in onnxgrad.compile(model, wrt="inputs").model.graph}
    assert (nodes["activation"], nodes["pooling"]) == ("Relu", "MaxPool")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (relu_and_pool("float[2,3,n,m] y, float[2,3,9,8] r"), {}),
        (relu_and_pool("float[2,3,n,m] y, int64[2,3,n,m] i", ", i"), {}),
        (relu_and_pool(), {"retain_grad": "r"}),
        (relu_and_pool(), {"stop_gradient": "r", "allow_unused": True, "materialize_grads": True}),
        (relu_and_pool(), {"scale_gradient": {"r": 2.0}}),
    ],
    ids=["an output", "the indices are an output", "its gradient is wanted", "stopped", "scaled"],
)
def test_a_relu_that_is_referred_to_stays(model: onnx.ModelProto, options: dict[str, Any]) -> None:
    assert order(onnxgrad.compile(model, wrt="inputs", **options)) == ["Relu", "MaxPool"]


def test_a_relu_with_a_rule_of_the_user_stays() -> None:
    rules = Registry(BUILTIN_RULES)

    @rules.vjp("Relu")
    def guided(n: Any, dy: Tensor) -> Any:
        return lambda: dy.op.Max(dy, dy.op.zeros_like(dy)) * (n.inputs[0] > 0).cast(dy.dtype)

    assert order(onnxgrad.compile(relu_and_pool(), wrt="inputs", rules=rules)) == ["Relu", "MaxPool"]
