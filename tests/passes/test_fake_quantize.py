"""Pairs of QuantizeLinear and DequantizeLinear as straight-through estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxgrad.passes.differentiate import differentiate
from onnxgrad.passes.fake_quantize import LowerFakeQuantize, RaiseFakeQuantize
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.rules.straight_through import STRAIGHT_THROUGH_RULES

from ..rules.checking import assert_close, run_reference, run_runtime

X = np.random.default_rng(3).uniform(-2.0, 2.0, (3, 6)).astype(np.float32)
SEED = np.random.default_rng(4).standard_normal(X.shape).astype(np.float32)


def parse(graph: str) -> ir.Model:
    text = f'<ir_version: 13, opset_import: ["": 26]> {graph}'
    return InferShapes()(ir.from_proto(onnx.parser.parse_model(text))).model


def joint(model: ir.Model, *wrt: str) -> onnx.ModelProto:
    """The outputs of *model* and the gradients of its first one, seeded with SEED."""
    RaiseFakeQuantize(wrt)(model)
    values = {value.name: value for value in [*model.graph.inputs, *model.graph.initializers.values()]}
    output = model.graph.outputs[0]
    seed = ir.Value(name="seed", type=output.type, shape=output.shape)
    model.graph.inputs.append(seed)
    gradients = differentiate(model.graph, {output: seed}, [values[name] for name in wrt], STRAIGHT_THROUGH_RULES)
    model.graph.outputs.extend(gradients.values())
    LowerFakeQuantize()(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def pair(scale: str, zero: str, attributes: str = "", dtype: str = "int8") -> ir.Model:
    return parse(
        f"g (float[3, 6] x) => (float[3, 6] y) <float{scale}, {dtype}{zero}> "
        f"{{ q = QuantizeLinear{attributes}(x, s, z) y = DequantizeLinear{attributes}(q, s, z) }}"
    )


GRANULARITIES = [
    pair(" s = {0.01}", " z = {5}"),
    pair("[3] s = {0.01, 0.004, 0.02}", "[3] z = {5, -20, 0}", "<axis = 0>"),
    pair("[6] s = {0.01, 0.004, 0.02, 0.1, 0.003, 0.01}", "[6] z = {5, -20, 0, 1, 2, 3}", "<axis = -1>"),
    pair("[1] s = {0.01}", "[1] z = {200}", dtype="uint8"),
]


def torch_pair(model: ir.Model, x: torch.Tensor) -> torch.Tensor:
    scale, zero = (torch.tensor(model.graph.initializers[name].const_value.numpy()) for name in ("s", "z"))
    low, high = (0, 255) if zero.dtype == torch.uint8 else (-128, 127)
    zero = zero.to(torch.int32)
    if scale.numel() == 1:
        return torch.fake_quantize_per_tensor_affine(x, scale.reshape(()), zero.reshape(()), low, high)
    return torch.fake_quantize_per_channel_affine(x, scale, zero, 0 if len(scale) == 3 else 1, low, high)


@pytest.mark.parametrize("index", range(len(GRANULARITIES)))
def test_gradient_of_the_input_is_that_of_pytorch(index: int) -> None:
    model = GRANULARITIES[index].clone()
    x = torch.tensor(X, requires_grad=True)
    y = torch_pair(model, x)
    (expected,) = torch.autograd.grad(y, [x], torch.tensor(SEED))
    assert 0 < np.count_nonzero(expected.numpy()) < X.size
    forward = run_runtime(ir.to_proto(model), {"x": X})
    actual, gradient = run_runtime(joint(model, "x"), {"x": X, "seed": SEED})
    np.testing.assert_array_equal(actual, forward[0])
    np.testing.assert_array_equal(gradient, expected.numpy())


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_gradient_of_a_scale_is_that_of_pytorch(dtype: str) -> None:
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    model = pair(" s = {0.01}", " z = {100}", dtype=dtype)
    x, scale = torch.tensor(X, requires_grad=True), torch.tensor([0.01], requires_grad=True)
    zero = torch.tensor([100.0])
    y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, low, high, 1.0)
    expected = torch.autograd.grad(y, [x, scale], torch.tensor(SEED))
    _, dx, dscale = run_runtime(joint(model, "x", "s"), {"x": X, "seed": SEED})
    np.testing.assert_array_equal(dx, expected[0].numpy())
    assert_close(dscale, expected[1].numpy().reshape(()), 1e-5, "gradient of the scale")


def test_gradient_of_the_scales_of_channels_is_that_of_pytorch() -> None:
    model = GRANULARITIES[1].clone()
    scales = model.graph.initializers["s"].const_value.numpy()
    x, scale = torch.tensor(X, requires_grad=True), torch.tensor(scales, requires_grad=True)
    y = torch._fake_quantize_learnable_per_channel_affine(x, scale, torch.tensor([5.0, -20, 0]), 0, -128, 127, 1.0)
    expected = torch.autograd.grad(y, [x, scale], torch.tensor(SEED))
    _, dx, dscale = run_runtime(joint(model, "x", "s"), {"x": X, "seed": SEED})
    np.testing.assert_array_equal(dx, expected[0].numpy())
    assert_close(dscale, expected[1].numpy(), 1e-5, "gradient of the scales")


def test_blocks_are_as_the_slices_they_repeat() -> None:
    """Blocks of two columns with equal scales in both rows of a block: each is a per-axis scale, repeated."""
    blocked = parse(
        "g (float[3, 6] x) => (float[3, 6] y) <float[3, 2] s = {0.01, 0.004, 0.01, 0.004, 0.01, 0.004}> "
        "{ q = QuantizeLinear<axis = 1, block_size = 4, output_dtype = 3>(x, s) "
        "y = DequantizeLinear<axis = 1, block_size = 4>(q, s) }"
    )
    sliced = parse(
        "g (float[3, 6] x) => (float[3, 6] y) <float[6] s = {0.01, 0.01, 0.01, 0.01, 0.004, 0.004}> "
        "{ q = QuantizeLinear<output_dtype = 3>(x, s) y = DequantizeLinear(q, s) }"
    )
    feeds = {"x": X, "seed": SEED}
    y, dx, dscale = run_runtime(joint(blocked, "x", "s"), feeds)
    y_sliced, dx_sliced, dscale_sliced = run_runtime(joint(sliced, "x", "s"), feeds)
    np.testing.assert_array_equal(y, y_sliced)
    np.testing.assert_array_equal(dx, dx_sliced)
    assert_close(dscale.sum(0), np.add.reduceat(dscale_sliced, [0, 4]), 1e-5, "gradient of the scales")


@pytest.mark.parametrize(("dtype", "largest"), [("float8e4m3fn", 448.0), ("float8e5m2", 57344.0)])
def test_small_floats_pass_the_gradient_within_their_range(dtype: str, largest: float) -> None:
    kind = {"float8e4m3fn": onnx.TensorProto.FLOAT8E4M3FN, "float8e5m2": onnx.TensorProto.FLOAT8E5M2}[dtype]
    model = parse(
        "g (float[3, 6] x) => (float[3, 6] y) <float s = {0.5}> "
        f"{{ q = QuantizeLinear<output_dtype = {kind}>(x, s) y = DequantizeLinear(q, s) }}"
    )
    x = X * np.float32(largest)
    _, gradient = run_runtime(joint(model, "x"), {"x": x, "seed": SEED})
    np.testing.assert_array_equal(gradient, np.where(np.abs(x) <= largest / 2, SEED, 0))


def test_half_precision_with_a_scale_of_its_own_type() -> None:
    model = parse(
        "g (float16[3, 6] x) => (float[3, 6] y) <float s = {0.01}, int8 z = {3}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    x = X.astype(np.float16)
    y, gradient = run_reference(joint(model, "x"), {"x": x, "seed": SEED})
    assert gradient.dtype == np.float16
    inside = np.abs(y - x) < 0.02
    np.testing.assert_array_equal(gradient, np.where(inside, SEED.astype(np.float16), 0))


def test_the_forward_part_has_the_same_nodes() -> None:
    model = parse(
        "g (float[3, 6] x, float[6, 6] w) => (float[3, 6] y) <float s = {0.01}, int8 z = {0}> "
        "{ h = MatMul(x, w) q = QuantizeLinear(h, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"
    )
    forward = [node.op_type for node in model.graph]
    joint(model, "x")
    assert [node.op_type for node in model.graph][: len(forward)] == forward
    assert "d" in {value.name for node in model.graph for value in node.outputs}


OTHERS: list[tuple[str, str]] = [
    ("float s = {0.01}, float t = {0.02}, int8 z = {0}", "DequantizeLinear(q, t, z)"),
    ("float s = {0.01}, int8 z = {0}, int8 u = {1}", "DequantizeLinear(q, s, u)"),
    ("float[6] s = {1, 1, 1, 1, 1, 1}, int8[6] z = {0, 0, 0, 0, 0, 0}", "DequantizeLinear<axis = 0>(q, s, z)"),
]


@pytest.mark.parametrize(("constants", "dequantize"), OTHERS)
def test_pairs_of_unequal_parameters_stay(constants: str, dequantize: str) -> None:
    model = parse(
        f"g (float[6, 6] x) => (float[6, 6] y) <{constants}> {{ q = QuantizeLinear(x, s, z) y = {dequantize} }}"
    )
    assert not RaiseFakeQuantize()(model).modified


def test_equal_constants_are_one_but_parameters_are_not() -> None:
    text = (
        "g (float[6, 6] x) => (float[6, 6] y) <float s = {0.01}, float t = {0.01}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z) }"
    )
    assert RaiseFakeQuantize()(parse(text)).modified
    assert not RaiseFakeQuantize(["t"])(parse(text)).modified


def test_integers_that_are_read_elsewhere_stay() -> None:
    model = parse(
        "g (float[3, 6] x) => (float[3, 6] y, int8[3, 6] q) <float s = {0.01}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    )
    forward = run_runtime(ir.to_proto(model), {"x": X})
    y, integers, gradient = run_runtime(joint(model, "x"), {"x": X, "seed": SEED})
    np.testing.assert_array_equal(y, forward[0])
    np.testing.assert_array_equal(integers, forward[1])
    assert np.count_nonzero(gradient)


def test_it_is_not_among_the_built_in_rules() -> None:
    assert {entry[1] for entry in STRAIGHT_THROUGH_RULES} - {entry[1] for entry in BUILTIN_RULES} == {"FakeQuantize"}


def test_second_order_through_what_follows() -> None:
    """y = fq(x)²: the estimator is linear in dy, so d²y/dx² is that of the square."""
    model = parse(
        "g (float[3, 6] x) => (float[3, 6] y) <float s = {0.01}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Mul(d, d) }"
    )
    RaiseFakeQuantize()(model)
    (x,), (y,) = model.graph.inputs, model.graph.outputs
    seed: Any = ir.Value(name="seed", type=y.type, shape=y.shape)
    model.graph.inputs.append(seed)
    first = differentiate(model.graph, {y: seed}, [x], STRAIGHT_THROUGH_RULES)[x]
    second = differentiate(model.graph, {first: seed}, [x], STRAIGHT_THROUGH_RULES)[x]
    model.graph.outputs.append(second)
    LowerFakeQuantize()(model)
    y_value, gradient = run_runtime(ir.to_proto(model), {"x": X, "seed": SEED})
    inside = np.abs(np.sqrt(y_value) - np.abs(X)) < 0.01
    assert_close(gradient, np.where(inside, 2 * SEED**2, 0), 1e-6, "second derivative")
