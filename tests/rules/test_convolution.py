"""Conv and ConvTranspose against their contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.convolution_gradients import InputForm, WeightForm
from onnxgrad.passes.rules import BUILTIN_RULES, convolution_forms

from .checking import check_rule, joint_graph, run_runtime

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def conv(**attributes: Any) -> Any:
    """PyTorch's convolution with the padding of ONNX, which may differ between the two sides."""

    def function(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = x.dim() - 2
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        pads = attributes.get("pads", [0] * (2 * rank))
        if attributes.get("auto_pad", "").startswith("SAME"):
            totals = [
                max((-(-x.shape[axis + 2] // s) - 1) * s + (w.shape[axis + 2] - 1) * d + 1 - x.shape[axis + 2], 0)
                for axis, (s, d) in enumerate(zip(strides, dilations, strict=True))
            ]
            upper = attributes["auto_pad"] == "SAME_UPPER"
            first = [total // 2 if upper else total - total // 2 for total in totals]
            pads = [*first, *(total - before for total, before in zip(totals, first, strict=True))]
        padded = F.pad(x, [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)])
        return CONV[rank - 1](padded, w, bias, strides, 0, dilations, attributes.get("group", 1))

    return function


def check_conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **options: Any) -> None:
    names = ("runtime_dtypes", "second_order", "static")
    how = {name: options.pop(name) for name in names if name in options}
    inputs = [x, w] if bias is None else [x, w, bias]
    check_rule("Conv", inputs, attributes=options, torch_function=conv(**options), **how)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pads": [1, 1]},
        {"strides": [2], "pads": [1, 0]},
        {"strides": [3], "pads": [0, 1], "dilations": [2]},
        {"strides": [2], "pads": [0, 3]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"auto_pad": "SAME_UPPER", "strides": [4]},
        {"auto_pad": "VALID", "strides": [3]},
    ],
    ids=str,
)
def test_conv_1d(options: dict[str, Any], group: int) -> None:
    check_conv(sample(2, 2, 8), sample(2 * group, 2 // group, 3), sample(2 * group), group=group, **options)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"strides": [2, 3], "pads": [0, 2, 1, 0], "dilations": [1, 2]},
        {"strides": [1, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2]},
    ],
    ids=str,
)
def test_conv_2d(options: dict[str, Any], group: int) -> None:
    check_conv(sample(2, 2, 5, 6), sample(2, 2 // group, 3, 2), sample(2), group=group, **options)


def test_conv_3d() -> None:
    options = {"strides": [2, 1, 1], "pads": [1, 0, 1, 1, 0, 0]}
    check_conv(sample(1, 2, 4, 3, 3), sample(2, 2, 3, 2, 2), second_order=False, **options)
    check_conv(sample(1, 2, 3, 2, 2), sample(2, 1, 2, 2, 2), sample(2), group=2)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise(multiplier: int) -> None:
    options = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    check_conv(sample(2, 3, 4, 4), sample(3 * multiplier, 1, 3, 3), group=3, **options)


def conv_transpose(**attributes: Any) -> Any:
    """PyTorch's transposed convolution, cut by the padding of ONNX, which may differ between the two sides."""

    def function(y: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = y.dim() - 2
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        extra = attributes.get("output_padding", [0] * rank)
        pads = attributes.get("pads", [0] * (2 * rank))
        x = CONV_TRANSPOSE[rank - 1](y, w, None, strides, 0, 0, attributes.get("group", 1), dilations)
        x = F.pad(x, [side for each in reversed(extra) for side in (0, each)])
        if "output_shape" in attributes or "auto_pad" in attributes:
            same = [size * stride for size, stride in zip(y.shape[2:], strides, strict=True)]
            wanted = attributes.get("output_shape", same)
            totals = [max(size - target, 0) for size, target in zip(x.shape[2:], wanted, strict=True)]
            upper = attributes.get("auto_pad") == "SAME_UPPER"
            first = [total // 2 if upper else total - total // 2 for total in totals]
            pads = [*first, *(total - before for total, before in zip(totals, first, strict=True))]
        for axis in range(rank):
            x = x.narrow(axis + 2, pads[axis], x.shape[axis + 2] - pads[axis] - pads[axis + rank])
        return x if bias is None else x + bias.reshape(-1, *[1] * rank)

    return function


def check_conv_transpose(y: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **options: Any) -> None:
    names = ("runtime_dtypes", "second_order", "static")
    how = {name: options.pop(name) for name in names if name in options}
    inputs = [y, w] if bias is None else [y, w, bias]
    check_rule("ConvTranspose", inputs, attributes=options, torch_function=conv_transpose(**options), **how)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pads": [1, 0]},
        {"strides": [2], "pads": [0, 1]},
        {"strides": [2], "output_padding": [1]},
        {"strides": [3], "pads": [1, 1], "output_padding": [2]},
        {"strides": [2], "dilations": [3], "output_padding": [1]},
        {"auto_pad": "SAME_UPPER", "strides": [2]},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"strides": [2], "output_shape": [8]},
        {"strides": [2], "output_shape": [8], "auto_pad": "SAME_UPPER"},
        {"strides": [2], "output_shape": [10], "output_padding": [1]},
    ],
    ids=str,
)
def test_conv_transpose_1d(options: dict[str, Any], group: int) -> None:
    check_conv_transpose(sample(2, 4, 4), sample(4, 4 // group, 3), sample(4), group=group, **options)


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose_2d(group: int) -> None:
    options = {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 0], "dilations": [2, 1]}
    check_conv_transpose(sample(2, 2, 3, 2), sample(2, 2, 2, 3), sample(2 * group), group=group, **options)


def test_conv_transpose_3d() -> None:
    options = {"strides": [2, 1, 1], "pads": [1, 0, 1, 0, 0, 0]}
    check_conv_transpose(sample(1, 2, 2, 3, 2), sample(2, 1, 3, 2, 2), second_order=False, **options)


def test_conv_transpose_that_is_longer_than_its_windows() -> None:
    """An output padding of a whole stride leaves output positions that no window of dx may cover."""
    check_conv_transpose(
        sample(1, 1, 3), sample(1, 1, 3), strides=[1], dilations=[3], output_padding=[2], runtime_dtypes=()
    )


PRODUCTS = [
    WeightForm.TAPS,
    WeightForm.TAPS_OVER_BATCH,
    WeightForm.COLUMNS,
    WeightForm.SHIFTS,
    WeightForm.GATHERED_TAPS,
]


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"pads": [1, 0, 1, 1]}, (3, 2)),
        ({"pads": [0, 1, 2, 1], "dilations": [2, 1]}, (2, 2)),
        ({"strides": [1, 3], "pads": [0, 1, 2, 1], "dilations": [2, 1]}, (2, 2)),
        ({"strides": [3, 1], "auto_pad": "SAME_UPPER", "group": 2}, (3, 2)),
        ({"strides": [2, 2], "group": 2}, (1, 1)),
        ({}, (1, 1)),
    ],
    ids=str,
)
def test_weight_by_products(
    monkeypatch: pytest.MonkeyPatch, form: WeightForm, options: dict[str, Any], kernel: tuple[int, int]
) -> None:
    """Each form, whatever the sizes; the sizes of the weight are known, those of the input are or are not."""
    monkeypatch.setattr(convolution_forms, "weight_form", lambda sizes: form)
    group = options.get("group", 1)
    check_conv(sample(2, 2, 4, 5), sample(2, 2 // group, *kernel), static=[1], runtime_dtypes=(np.float32,), **options)


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"pads": [1, 1, 1, 1]}, (3, 3)),
        ({"pads": [1, 0, 1, 2], "strides": [2, 2]}, (3, 2)),
        ({"strides": [1, 3], "pads": [0, 1, 2, 1], "dilations": [2, 1]}, (2, 2)),
        ({"auto_pad": "SAME_UPPER", "strides": [3, 1]}, (2, 3)),
        ({"dilations": [1, 2]}, (1, 2)),
    ],
    ids=str,
)
def test_depthwise_weight_by_rows(options: dict[str, Any], kernel: tuple[int, int]) -> None:
    x, w = sample(2, 3, 6, 7), sample(3, 1, *kernel)
    op_types = [node.op_type for node in gradients(["n", *x.shape[1:]], w.shape, group=3, **options).graph.node]
    assert op_types.count("MatMul") == kernel[0]
    assert "Gather" in op_types
    check_conv(x, w, runtime_dtypes=(np.float32,), group=3, **options)


@pytest.mark.parametrize("form", PRODUCTS)
@pytest.mark.parametrize(
    "options", [{}, {"strides": [2], "output_shape": [8]}, {"strides": [2], "dilations": [3], "output_padding": [1]}]
)
def test_transposed_weight_by_products(
    monkeypatch: pytest.MonkeyPatch, form: WeightForm, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(convolution_forms, "weight_form", lambda sizes: form)
    check_conv_transpose(sample(2, 4, 4), sample(4, 1, 3), group=2, static=[1], runtime_dtypes=(np.float32,), **options)


@pytest.mark.parametrize("form", [InputForm.REVERSED_KERNEL, InputForm.COLUMNS])
@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"pads": [1, 0, 2, 1]}, (3, 2)),
        ({"dilations": [2, 1], "auto_pad": "SAME_LOWER", "group": 2}, (3, 2)),
        ({"pads": [3, 0, 0, 0]}, (3, 2)),
        ({"group": 2}, (1, 1)),
        ({"pads": [1, 1, 0, 0]}, (1, 1)),
    ],
    ids=str,
)
def test_input_without_transposed_convolution(
    monkeypatch: pytest.MonkeyPatch, form: InputForm, options: dict[str, Any], kernel: tuple[int, int]
) -> None:
    """Padding beyond the kernel, which no reversed kernel can undo, is left to ConvTranspose, as are groups."""
    monkeypatch.setattr(convolution_forms, "input_form", lambda sizes: form)
    runtime_dtypes = () if "auto_pad" in options else (np.float32,)  # no dilated SAME in ONNX Runtime
    group = options.get("group", 1)
    check_conv(sample(2, 2, 4, 4), sample(4, 2 // group, *kernel), static=[1], runtime_dtypes=runtime_dtypes, **options)


def gradients(x: list[Any], w: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """The gradients of a Conv of an input of shape *x* (names are symbolic sizes) by a weight of shape *w*."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in [("x", x), ("w", w)]
    ]
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    graph = onnx.helper.make_graph([node], "conv", inputs, [onnx.helper.make_empty_tensor_value_info("y")])
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    return joint_graph(model, ["x", "w"], BUILTIN_RULES)


@pytest.mark.parametrize("batch", [8, "N"])
@pytest.mark.parametrize(
    ("size", "w", "options", "forms"),
    [
        ([56, 56], (64, 64, 3, 3), {"pads": [1, 1, 1, 1]}, {"MatMul": 9, "Conv": 1}),
        ([14, 14], (256, 256, 3, 3), {"pads": [1, 1, 1, 1]}, {"Gemm": 2}),
        ([14, 14], (256, 256, 3, 3), {"strides": [2, 2]}, {"Gemm": 9, "ConvTranspose": 1}),
        ([56, 56], (256, 64, 1, 1), {}, {"MatMul": 1, "Conv": 1}),
        ([56, 56], (128, 64, 1, 1), {"strides": [2, 2]}, {"MatMul": 1, "ConvTranspose": 1}),
        ([32, 32], (16, 3, 3, 3), {}, {"MatMul": 1, "ConvTranspose": 1}),
        ([64, 64], (64, 3, 7, 7), {"strides": [2, 2]}, {"Conv": 1, "ConvTranspose": 1}),
        ([56, 56], (96, 1, 3, 3), {"group": 96}, {"MatMul": 9, "Conv": 1}),
        ([28, 28], (96, 1, 3, 3), {"group": 96}, {"MatMul": 3, "Conv": 1}),
        ([14, 14], (96, 1, 3, 3), {"group": 96}, {"MatMul": 3, "Conv": 1}),
        (["H", "W"], (64, 64, 3, 3), {"pads": [1, 1, 1, 1]}, {"MatMul": 9, "Conv": 1}),
        ([24, 24, 24], (32, 64, 3, 3, 3), {"pads": [1] * 6}, {"MatMul": 9, "Conv": 1}),
        ([24, 24, 24], (32, 64, 3, 3, 3), {"strides": [2, 2, 2]}, {"MatMul": 27, "ConvTranspose": 1}),
    ],
)
def test_form_by_sizes(
    batch: Any, size: list[Any], w: tuple[int, ...], options: dict[str, Any], forms: dict[str, int]
) -> None:
    """The measured choice, the same for a batch of unknown size."""
    model = gradients([batch, w[1] * options.get("group", 1), *size], w, **options)
    operators = [node.op_type for node in model.graph.node if node.name != "conv"]
    counts = {name: operators.count(name) for name in ("MatMul", "Gemm", "Conv", "ConvTranspose")}
    assert {name: count for name, count in counts.items() if count} == forms


def test_weight_by_convolution_computes_its_taps_alone() -> None:
    """The zero that a stride leaves behind the last window would make the Conv 8 x 8, to be cut to 7 x 7."""
    model = gradients([1, 3, 64, 64], (64, 3, 7, 7), strides=[2, 2], pads=[3, 3, 3, 3])
    assert "Slice" not in [node.op_type for node in model.graph.node]
    (pads,) = [
        list(attribute.ints)
        for node in model.graph.node
        if node.op_type == "Conv" and node.name != "conv"
        for attribute in node.attribute
        if attribute.name == "pads"
    ]
    assert pads == [3, 3, 2, 2]


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    ("weight", "group"),
    [
        ((8, 8, 3, 3), 1),
        ((8, 3, 3, 3), 1),
        ((64, 64, 1, 1), 1),
        ((128, 128, 3, 3), 1),
        ((6, 6, 3, 3), 1),
        ((8, 8, 7, 7), 1),
        ((5, 1, 3, 3), 5),
        ((64, 32, 3, 3), 2),
    ],
    ids=str,
)
def test_any_batch_runs(batch: int, weight: tuple[int, ...], group: int) -> None:
    """A graph for a batch of unknown size, run on one, several and no samples, against PyTorch in float64."""
    x = sample(batch, group * weight[1], 9, 8)
    w = sample(*weight)
    model = gradients(["N", *x.shape[1:]], weight, strides=[1, 1], group=group)
    leaves = [torch.tensor(array, requires_grad=True) for array in (x, w)]
    y = F.conv2d(*leaves, groups=group)
    seed = sample(*y.shape, seed=1)
    expected = torch.autograd.grad(y, leaves, torch.tensor(seed))
    feeds = {"x": x, "w": w, "y.grad_output": seed}
    actual = run_runtime(model, {name: array.astype(np.float32) for name, array in feeds.items()})
    for result, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(result, reference.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [(8, 8, 7, 7), (8, 8, 3, 3), (8, 3, 3, 3), (8, 8, 1, 1)], ids=str)
def test_no_samples_in_memory_that_was_used(weight: tuple[int, ...]) -> None:
    """ONNX Runtime's Conv leaves a sum of nothing as it finds the memory: NaN of the run before."""
    model = gradients(["N", weight[1], 9, 8], weight, strides=[1, 1])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = (3, weight[0], 10 - weight[2], 9 - weight[3])
    full = {"x": np.full((3, weight[1], 9, 8), np.nan, np.float32), "y.grad_output": np.full(shape, np.nan, np.float32)}
    w = np.ones(weight, np.float32)
    for _ in range(5):
        session.run(None, {**full, "w": w})
        _, gradient = session.run(None, {**{name: array[:0] for name, array in full.items()}, "w": w})
        np.testing.assert_array_equal(gradient, np.zeros(weight, np.float32))
