"""DeformConv against its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_reference, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def offsets(*shape: int) -> np.ndarray:
    """Off the kinks: whole numbers, some of which lead out of x, and a fraction."""
    random = np.random.default_rng([3, *shape])
    return random.integers(-2, 3, shape) + random.choice([0.2, 0.35, 0.7, 0.85], shape)


FORMS: dict[str, tuple[list[np.ndarray | None], dict[str, Any]]] = {
    "plain": ([sample(1, 2, 3, 4), sample(2, 2, 2, 2), offsets(1, 8, 2, 3)], {}),
    "groups": (
        [sample(2, 4, 3, 3), sample(2, 2, 2, 1), offsets(2, 8, 2, 3), sample(2), sample(2, 4, 2, 3)],
        {"group": 2, "offset_group": 2, "kernel_shape": [2, 1]},
    ),
    "offset groups": (
        [sample(1, 4, 3, 3), sample(2, 4, 1, 2), offsets(1, 8, 3, 2), None, sample(1, 4, 3, 2)],
        {"offset_group": 2},
    ),
    "steps": (
        [sample(1, 1, 5, 4), sample(1, 1, 2, 2), offsets(1, 8, 3, 4), sample(1)],
        {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 0, 2]},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_deform_conv(form: str) -> None:
    inputs, attributes = FORMS[form]
    check_rule("DeformConv", inputs, attributes=attributes, static=[1])


@pytest.mark.parametrize("spatial", [(4,), (2, 3, 2)])
def test_other_numbers_of_axes(spatial: tuple[int, ...]) -> None:
    rank, out = len(spatial), [size - 1 for size in spatial]
    taps = 2**rank
    check_rule(
        "DeformConv",
        [
            sample(1, 2, *spatial),
            sample(1, 2, *[2] * rank),
            offsets(1, taps * rank, *out),
            sample(1),
            sample(1, taps, *out),
        ],
        static=[1],
        second_order=rank == 1,
        runtime_dtypes=(),
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_oracle_is_what_the_runtime_computes(form: str) -> None:
    inputs, attributes = FORMS[form]
    model = deform_conv_model(inputs, attributes)
    feeds = {f"x{index}": each for index, each in enumerate(inputs) if each is not None}
    (actual,), (expected,) = run_runtime(model, feeds), run_reference(model, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_without_offsets_it_is_a_convolution() -> None:
    x, w, b = sample(2, 4, 5, 6), sample(4, 2, 3, 2), sample(4)
    attributes = {"group": 2, "strides": [1, 2], "pads": [1, 1, 1, 0], "dilations": [1, 2]}
    offset, dy = np.zeros((2, 12, 5, 3)), sample(2, 4, 5, 3)
    joint = joint_graph(deform_conv_model([x, w, offset, b], attributes), ["x0", "x1", "x3"], BUILTIN_RULES)
    gradients = run_reference(joint, {"x0": x, "x1": w, "x2": offset, "x3": b, "y.grad_output": dy})
    tensors = [torch.tensor(each, requires_grad=True) for each in (x, w, b)]
    y = F.conv2d(F.pad(tensors[0], (1, 0, 1, 1)), *tensors[1:], stride=(1, 2), dilation=(1, 2), groups=2)
    for gradient, expected in zip(gradients, torch.autograd.grad(y, tensors, torch.tensor(dy)), strict=True):
        np.testing.assert_allclose(gradient, expected.numpy(), rtol=1e-9, atol=1e-12)


def test_a_kernel_of_unknown_size_is_refused() -> None:
    model = deform_conv_model(FORMS["plain"][0], {})
    for dim in model.graph.input[1].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "k"
    with pytest.raises(UnsupportedError, match="kernel_shape"):
        joint_graph(model, ["x0"], BUILTIN_RULES)


def deform_conv_model(inputs: list[np.ndarray | None], attributes: dict[str, Any]) -> onnx.ModelProto:
    names = ["" if each is None else f"x{index}" for index, each in enumerate(inputs)]
    present = [(name, each) for name, each in zip(names, inputs, strict=True) if each is not None]
    element = onnx.TensorProto.DOUBLE
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("DeformConv", names, ["y"], **attributes)],
        "deformable",
        [info(name, element, each.shape) for name, each in present],
        [info("y", element, [None] * 4)],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=13)
