"""The declarations of zero gradient against the operators' definitions and behaviour."""

from __future__ import annotations

import numpy as np
import onnx.defs
import onnx.parser
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.registry import NonDifferentiable, Zero
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.rules.declarations import rules

from .checking import joint_graph, numeric_gradient, run_runtime

DECLARED = {op_type: entry for _, op_type, entry in rules}
PIECEWISE_CONSTANT = ["Ceil", "Floor", "Hardmax", "Round", "Sign"]
RANDOM = ["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"]


def parse(body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 26]> g (float[n] x) => (float[n] y) {{ {body} }}'
    )
    return ir.to_proto(InferShapes()(ir.from_proto(model)).model)


@pytest.mark.parametrize("op_type", DECLARED)
def test_every_declaration_names_an_operator_of_onnx(op_type: str) -> None:
    assert onnx.defs.has(op_type)


@pytest.mark.parametrize("op_type", PIECEWISE_CONSTANT)
def test_piecewise_constant_operators_have_slope_zero(op_type: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 26]> g (double[n] x) => (double[n] y) {{ y = {op_type}(x) }}'
    )
    x = np.array([-1.7, -0.4, 0.3, 0.8, 2.4])
    slope = numeric_gradient(model, {"x": x}, [np.ones(5)], "x", 1e-3)
    np.testing.assert_array_equal(slope, np.zeros(5))
    assert isinstance(DECLARED[op_type], Zero)


@pytest.mark.parametrize("op_type", PIECEWISE_CONSTANT)
def test_the_gradient_goes_on_beside_them(op_type: str) -> None:
    """y = f(x) x has the derivative f(x)."""
    model = parse(f"step = {op_type}(x) y = Mul(step, x)")
    x = np.array([-1.7, -0.4, 0.3, 2.6], np.float32)
    feeds = {"x": x, "y.grad_output": np.ones(4, np.float32)}
    (gradient,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    (y,) = run_runtime(model, {"x": x})
    np.testing.assert_allclose(gradient, y / x, rtol=1e-6)


@pytest.mark.parametrize("op_type", PIECEWISE_CONSTANT)
def test_a_path_that_ends_in_them_is_refused_with_the_reason(op_type: str) -> None:
    with pytest.raises(UnsupportedError, match=f"'x': the path breaks at {op_type} .*piecewise constant"):
        joint_graph(parse(f"y = {op_type}(x)"), ["x"], BUILTIN_RULES)


@pytest.mark.parametrize(
    "op_type", [op_type for op_type in DECLARED if op_type not in [*PIECEWISE_CONSTANT, *RANDOM, "BitCast"]]
)
def test_other_operators_carry_no_float_from_an_input_to_an_output(op_type: str) -> None:
    """By their schemas: floats come in, or go out, but not both."""
    schema = onnx.defs.get_schema(op_type, 26)
    types = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}

    def floats(parameter: onnx.defs.OpSchema.FormalParameter) -> bool:
        return any("float" in name or "double" in name for name in types.get(parameter.type_str, [parameter.type_str]))

    reads_only_the_shape = op_type == "EyeLike"
    assert reads_only_the_shape or not (any(map(floats, schema.inputs)) and any(map(floats, schema.outputs)))


def test_bits_are_refused() -> None:
    assert isinstance(DECLARED["BitCast"], NonDifferentiable)
    model = parse(f"bits = BitCast<to={onnx.TensorProto.FLOAT}>(x) y = Mul(bits, x)")
    with pytest.raises(UnsupportedError, match=r"BitCast .*reads the bits"):
        joint_graph(model, ["x"], BUILTIN_RULES)
