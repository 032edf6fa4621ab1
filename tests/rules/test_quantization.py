"""DequantizeLinear against its contract, and what is declared of the operators on quantized tensors."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.registry import NonDifferentiable
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph

CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3), (), {}),
    ((2, 3), (1,), {}),
    ((5,), (), {}),
    ((2, 3), (3,), {}),
    ((2, 3, 4), (2,), {"axis": 0}),
    ((2, 3, 4), (4,), {"axis": -1}),
    ((2, 6), (2, 3), {"block_size": 2}),
    ((2, 7), (2, 3), {"block_size": 3, "axis": -1}),
    ((5, 2), (2, 2), {"block_size": 3, "axis": 0}),
]


def scales(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(4).uniform(0.01, 0.2, shape)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("with_zero_point", [True, False])
@pytest.mark.parametrize(("shape", "groups", "attributes"), CASES)
def test_the_scale_of_integers(
    shape: tuple[int, ...], groups: tuple[int, ...], attributes: dict[str, Any], with_zero_point: bool, dtype: Any
) -> None:
    random, limits = np.random.default_rng(8), np.iinfo(dtype)
    x = random.integers(limits.min, limits.max, shape).astype(dtype)
    zero_point = random.integers(limits.min, limits.max, groups).astype(dtype)
    check_rule(
        "DequantizeLinear",
        [x, scales(groups), *([zero_point] if with_zero_point else [])],
        attributes=attributes,
    )


@pytest.mark.parametrize("dtype", [np.int32, np.int16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn])
def test_the_scale_of_other_types(dtype: Any) -> None:
    x = np.array([[-3, 2, 7], [0, 1, -6]]) if dtype is not ml_dtypes.uint4 else np.array([[3, 2, 7], [0, 1, 6]])
    check_rule("DequantizeLinear", [x.astype(dtype), scales((3,))], constants=[0])


def test_scale_against_pytorch() -> None:
    x, zero_point = np.array([[-128, 5, 127]], np.int8), np.array(3, np.int8)
    check_rule(
        "DequantizeLinear",
        [x, np.array(0.05), zero_point],
        torch_function=lambda x, scale, zero: (x.double() - zero.double()) * scale,
    )


def test_output_of_another_type() -> None:
    model = parse(
        "g (int8[2, 3] x, float16[3] scale) => (float[2, 3] y) "
        "{ y = DequantizeLinear<axis=1, output_dtype=1>(x, scale) }"
    )
    gradient = joint_graph(model, ["scale"], BUILTIN_RULES).graph.output[0]
    assert gradient.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


DECLARED = {
    "QuantizeLinear": "straight_through=True",
    "DynamicQuantizeLinear": "differentiate the model before it is quantized",
    "QLinearConv": "operators on floats",
    "QLinearMatMul": "operators on floats",
}


@pytest.mark.parametrize("op_type", DECLARED)
def test_declarations_say_what_to_do(op_type: str) -> None:
    entry = next(entry for _, name, entry in BUILTIN_RULES if name == op_type)
    assert isinstance(entry, NonDifferentiable)
    assert DECLARED[op_type] in entry.reason


def test_dynamic_quantization_is_refused_through_its_scale() -> None:
    model = parse(
        "g (float[2, 3] x) => (float[2, 3] y) "
        "{ q, scale, zero = DynamicQuantizeLinear(x) y = DequantizeLinear(q, scale, zero) }"
    )
    with pytest.raises(UnsupportedError, match=r"DynamicQuantizeLinear .*rounds to integers"):
        joint_graph(model, ["x"], BUILTIN_RULES)


@pytest.mark.parametrize("between", ["r = Identity(q)", "r = Transpose<perm = [0, 1]>(q)"])
def test_a_path_around_the_integers_does_not_hide_them(between: str) -> None:
    model = parse(
        "g (float[2, 3] x) => (float[2, 3] y) <float s = {0.1}, int8 z = {0}> "
        f"{{ q = QuantizeLinear(x, s, z) {between} d = DequantizeLinear(r, s, z) y = Add(x, d) }}"
    )
    with pytest.raises(UnsupportedError, match=r"QuantizeLinear .*straight_through"):
        joint_graph(model, ["x"], BUILTIN_RULES)


def parse(graph: str) -> onnx.ModelProto:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 13, opset_import: ["": 26]> {graph}'))
    return ir.to_proto(InferShapes()(model).model)
