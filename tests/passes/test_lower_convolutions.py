"""LowerConvolutions: the same convolution and gradients, from tiles; and which convolutions it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import onnxgrad
from onnxgrad.passes.forms import Alternatives
from onnxgrad.passes.lower_convolutions import suits_tiles
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.tape import CANONICAL_OPSET, Tape, Tensor

TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}


def in_tiles(alternatives: Alternatives) -> str:
    return "TILES" if "TILES" in alternatives.forms else alternatives.expected


TILES = Registry(BUILTIN_RULES, choose=in_tiles)


def conv(
    shape: tuple[int | str, ...],
    many: int,
    *,
    dtype: str = "float32",
    bias: bool = True,
    kernel: tuple[int, int] = (3, 3),
    **attributes: Any,
) -> onnx.ModelProto:
    """Conv and a Tanh behind it, so that cotangents are not all ones."""
    random = np.random.default_rng(0)
    channels = int(shape[1]) // attributes.get("group", 1)
    weights = {"w": random.standard_normal((many, channels, *kernel)).astype(dtype) / 3}
    if bias:
        weights["b"] = random.standard_normal(many).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", *weights], ["c"], name="conv", **attributes),
            helper.make_node("Tanh", ["c"], ["y"]),
        ],
        "one",
        [helper.make_tensor_value_info("x", TYPES[dtype], shape)],
        [helper.make_tensor_value_info("y", TYPES[dtype], [None] * 4)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def is_lowered(program: onnxgrad.Program) -> bool:
    return all(node.op_type != "Conv" for node in program.model.graph)


def compile_tiles(model: onnx.ModelProto, **options: Any) -> onnxgrad.Program:
    return onnxgrad.compile(model, wrt=["w", "x"], rules=TILES, **options)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "pads"),
    [
        ((6, 8), [1, 1, 1, 1]),
        ((7, 5), [1, 1, 1, 1]),
        ((6, 7), [0, 0, 0, 0]),
        ((5, 6), [0, 1, 1, 0]),
        ((4, 3), [2, 0, 1, 3]),
        ((3, 3), [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_gradients_are_those_of_torch(batch: int | str, size: tuple[int, int], pads: list[int], bias: bool) -> None:
    model = conv((batch, 4, *size), 5, dtype="float64", bias=bias, pads=pads)
    program = compile_tiles(model)
    assert is_lowered(program)
    random = np.random.default_rng(1)
    x = random.standard_normal((2 if batch == "batch" else int(batch), 4, *size))
    weights = [torch.tensor(numpy_helper.to_array(each), requires_grad=True) for each in model.graph.initializer]
    signal = torch.tensor(x, requires_grad=True)
    padded = F.pad(signal, (pads[1], pads[3], pads[0], pads[2]))
    y = torch.tanh(F.conv2d(padded, *weights))
    dy = random.standard_normal(y.shape)
    y.backward(torch.tensor(dy))
    outputs, gradients = program.session().value_and_grad({"x": x}, {"y": dy})
    np.testing.assert_allclose(outputs["y"], y.detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradients["x"], signal.grad, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradients["w"], weights[0].grad, rtol=1e-12, atol=1e-12)


def test_float32_rounds_as_the_direct_convolution_does() -> None:
    shape = (2, 256, 14, 14)
    model = conv(shape, 256, pads=[1, 1, 1, 1])
    random = np.random.default_rng(2)
    x, dy = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    assert is_lowered(onnxgrad.compile(model, wrt=["w", "x"])), "these sizes are expected to be faster so"
    results = {}
    for name, rules in (("tiles", TILES), ("direct", BUILTIN_RULES)):
        results[name] = onnxgrad.compile(model, wrt=["w", "x"], rules=rules).session().grad({"x": x}, {"y": dy})
    for name in ("w", "x"):
        error = np.abs(results["tiles"][name] - results["direct"][name]).max()
        assert error < 2e-6 * np.abs(results["direct"][name]).max()


def test_a_batch_of_no_samples_has_zero_gradients() -> None:
    program = compile_tiles(conv(("batch", 4, 6, 6), 5, pads=[1, 1, 1, 1]))
    x = np.empty((0, 4, 6, 6), np.float32)
    session = program.session()
    session.grad({"x": np.ones((3, 4, 6, 6), np.float32)}, {"y": np.ones((3, 5, 6, 6), np.float32)})
    gradients = session.grad({"x": x}, {"y": np.empty((0, 5, 6, 6), np.float32)})
    assert gradients["x"].shape == x.shape
    assert not gradients["w"].any()


@pytest.mark.parametrize(
    "model",
    [
        conv((2, 4, 6, 6), 4, strides=[2, 2]),
        conv((2, 4, 6, 6), 4, dilations=[1, 2]),
        conv((2, 4, 6, 6), 4, group=2),
        conv((2, 4, 6, 6), 4, kernel=(3, 1)),
        conv((2, 4, "height", 6), 4),
        conv((2, 4, 6, 6), 4, dtype="float16"),
    ],
    ids=["strided", "dilated", "grouped", "other kernel", "unknown size", "float16"],
)
def test_what_cannot_be_lowered_stays(model: onnx.ModelProto) -> None:
    assert not is_lowered(compile_tiles(model))


def test_automatic_pads_are_those_in_numbers() -> None:
    assert is_lowered(compile_tiles(conv((2, 4, 6, 6), 4, auto_pad="SAME_UPPER")))


def test_what_the_user_refers_to_stays() -> None:
    model = conv((2, 4, 6, 6), 4, pads=[1, 1, 1, 1])
    assert is_lowered(compile_tiles(model))
    assert not is_lowered(onnxgrad.compile(model, wrt=["w", "c"], rules=TILES))
    assert not is_lowered(onnxgrad.compile(model, wrt=["x"], rules=TILES, straight_through="conv"))


def test_a_rule_of_the_user_is_used() -> None:
    rules = Registry(TILES)
    calls = []

    @rules.vjp("Conv", inputs=(0, 1, 2))
    def own(n: Any, dy: Tensor) -> Any:
        calls.append(n)
        return (lambda: n.inputs[0] * 0.0, lambda: n.inputs[1] * 0.0, None)

    program = onnxgrad.compile(conv((2, 4, 6, 6), 4), wrt=["w", "x"], rules=rules)
    assert calls
    assert not is_lowered(program)


def test_nodes_bear_the_name_of_the_convolution() -> None:
    graph = compile_tiles(conv((2, 4, 6, 6), 4)).model.graph
    emitted = [node for node in graph if node.metadata_props.get("onnxgrad.rule") == "Conv"]
    assert {node.metadata_props["onnxgrad.forward_node"] for node in emitted} == {"conv"}
    assert {node.op_type for node in emitted} >= {"MatMul", "Transpose", "Gemm"}


@pytest.mark.parametrize(
    ("x", "many", "suits"),
    [
        ((8, 256, 14, 14), 256, True),
        (("batch", 512, 7, 7), 512, True),
        ((1, 512, 7, 7), 512, False),
        ((8, 64, 56, 56), 64, False),
        ((8, 64, 14, 14), 128, True),
        ((8, 16, 14, 14), 64, False),
    ],
)
def test_the_expected_form(x: tuple[int | str, ...], many: int, suits: bool) -> None:
    tape = Tape(ir.Graph([], [], nodes=[], opset_imports={"": CANONICAL_OPSET}))
    signal = tape.argument("x", ir.DataType.FLOAT, x)
    result = tape.argument("y", ir.DataType.FLOAT, (x[0], many, *x[2:]))
    assert suits_tiles(signal, result) is suits


def test_tuning_measures_both() -> None:
    seen: list[Alternatives] = []

    def choose(alternatives: Alternatives) -> str:
        seen.append(alternatives)
        return alternatives.expected

    onnxgrad.compile(conv((2, 4, 6, 6), 4), wrt=["w", "x"], tune=choose)
    (choice,) = [each for each in seen if each.family == "convolution"]
    assert set(choice.forms) == {"DIRECT", "TILES"}
