"""ExplicitPads: the same values by numbers, in every form, and by the fast convolutions of sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxgrad.passes.explicit_pads import ExplicitPads
from onnxgrad.passes.infer_shapes import InferShapes

from .running import run

CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 2, 7, 8), (3, 2, 3, 3), {}),
    ((1, 2, 7, 8), (3, 2, 2, 4), {}),
    ((1, 2, 7, 8), (3, 2, 4, 2), {"strides": [2, 3]}),
    ((1, 2, 9, 8), (3, 2, 3, 3), {"strides": [2, 2], "kernel_shape": [3, 3]}),
    ((1, 2, 9), (3, 2, 4), {"strides": [2]}),
    ((1, 4, 6, 6), (4, 1, 5, 3), {"group": 4}),
    ((1, 2, 8, 8), (2, 2, 1, 1), {"strides": [3, 3]}),
    ((1, 1, 4, 5, 6), (2, 1, 3, 2, 3), {"strides": [1, 2, 1]}),
]


def conv(shape: list[int | str], w: tuple[int, ...], attributes: dict[str, Any]) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal(w, np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "conv",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize(("shape", "w", "attributes"), CASES)
def test_values_do_not_change(
    shape: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], automatic: str
) -> None:
    before = conv(list(shape), w, {**attributes, "auto_pad": automatic})
    model = ir.from_proto(before)
    InferShapes()(model)
    assert ExplicitPads()(model).modified
    assert "auto_pad" not in model.graph[0].attributes
    feeds = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    np.testing.assert_allclose(run(model, feeds)["y"], run(ir.from_proto(before), feeds)["y"], rtol=1e-6, atol=1e-6)


def test_dilations() -> None:
    """Which ONNX Runtime has only with padding by numbers."""
    before = conv([1, 2, 9], (3, 2, 4), {"auto_pad": "SAME_UPPER", "dilations": [2]})
    model = ir.from_proto(before)
    InferShapes()(model)
    assert ExplicitPads()(model).modified
    x = np.random.default_rng(1).standard_normal((1, 2, 9), np.float32)
    weight = torch.tensor(onnx.numpy_helper.to_array(before.graph.initializer[0]))
    expected = torch.nn.functional.conv1d(torch.tensor(x), weight, dilation=2, padding="same")
    np.testing.assert_allclose(run(model, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


def test_sizes_that_are_not_known() -> None:
    for stride, known in ((1, True), (2, False)):
        attributes = {"auto_pad": "SAME_LOWER", "strides": [stride, stride]}
        model = ir.from_proto(conv(["n", 2, "h", "w"], (3, 2, 4, 3), attributes))
        assert ExplicitPads()(model).modified == known
        if known:
            assert tuple(model.graph[0].attributes.get_ints("pads")) == (2, 1, 1, 1)
