"""The elementwise arithmetic against its contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_edge_values, check_rule, joint_graph, run_reference, run_runtime

PAIRS = [
    ((), ()),
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((3,), (2, 3)),
    ((2, 1, 3), (4, 1)),
    ((), (2,)),
    ((1,), ()),
    ((1, 3), (2, 1)),
]


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(0.5, 2, shape)


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize(
    ("op_type", "function"),
    [("Add", torch.add), ("Sub", torch.sub), ("Mul", torch.mul), ("Div", torch.div)],
)
def test_arithmetic(
    op_type: str,
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    a: tuple[int, ...],
    b: tuple[int, ...],
) -> None:
    check_rule(op_type, [positive(*a), -positive(*b, seed=1)], torch_function=function)


def test_division_by_zero() -> None:
    check_edge_values("Div", [np.array([1.0, -2.0]), np.array([0.0, 0.0])], torch.div)


@pytest.mark.parametrize(("op_type", "function"), [("Neg", torch.neg), ("Identity", torch.clone)])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_unary(op_type: str, function: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> None:
    check_rule(op_type, [positive(*shape)], torch_function=function)


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_mod(a: tuple[int, ...], b: tuple[int, ...], signs: tuple[int, int]) -> None:
    """Dividends between the multiples of their divisors, where the quotient is constant."""
    quotients = np.random.default_rng(5).integers(0, 4, a)
    divisor = np.full(b, 1.25)
    dividend = signs[0] * (quotients + 0.5) * 1.25
    check_rule("Mod", [dividend, signs[1] * divisor], attributes={"fmod": 1}, torch_function=torch.fmod)


def test_mod_at_a_multiple() -> None:
    dividend, divisor = np.array([6.0, -6.0, 0.0, 5.0]), np.array([3.0, 3.0, 3.0, -3.0])
    check_edge_values("Mod", [dividend, divisor], torch.fmod, attributes={"fmod": 1})


@pytest.mark.parametrize("shapes", [[(2, 3)], *map(list, PAIRS), [(2, 3), (3,), ()], [(2, 1), (3,), (2, 3), (1, 1)]])
@pytest.mark.parametrize("op_type", ["Sum", "Mean"])
def test_variadic_sums(op_type: str, shapes: list[tuple[int, ...]]) -> None:
    def function(*operands: torch.Tensor) -> torch.Tensor:
        total = sum(operands[1:], operands[0])
        return total if op_type == "Sum" else total / len(operands)

    check_rule(op_type, [positive(*shape, seed=i) for i, shape in enumerate(shapes)], torch_function=function)


def parse(body: str, float_type: str = "float") -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 24]> g ({float_type}[n] x) => ({float_type}[n] y) {{ {body} }}'
    )
    return ir.to_proto(InferShapes()(ir.from_proto(model)).model)


@pytest.mark.parametrize(
    ("source", "between"),
    [("float", "FLOAT16"), ("float16", "FLOAT"), ("float", "DOUBLE"), ("double", "FLOAT"), ("float", "FLOAT")],
)
def test_casts_between_floats(source: str, between: str) -> None:
    """y = cast(x²) x has the derivative 3 x² in the type of x."""
    number = getattr(onnx.TensorProto, between)
    body = f"square = Mul(x, x) inner = Cast<to={number}>(square) back = CastLike(inner, x) y = Mul(back, x)"
    joint = joint_graph(parse(body, source), ["x"], BUILTIN_RULES)
    x = np.array([0.5, -1.0, 2.0], {"float": "f4", "float16": "f2", "double": "f8"}[source])
    for run in (run_reference, run_runtime):
        (gradient,) = run(joint, {"x": x, "y.grad_output": np.ones_like(x)})
        assert gradient.dtype == x.dtype
        np.testing.assert_array_equal(gradient, 3 * x**2)


def test_a_cast_to_integers_stops_the_gradient() -> None:
    """y = int(x²) x has the derivative int(x²)."""
    number = onnx.TensorProto.INT64
    body = f"square = Mul(x, x) inner = Cast<to={number}>(square) back = CastLike(inner, x) y = Mul(back, x)"
    joint = joint_graph(parse(body), ["x"], BUILTIN_RULES)
    x = np.array([0.5, -1.5, 2.0], np.float32)
    (gradient,) = run_runtime(joint, {"x": x, "y.grad_output": np.ones_like(x)})
    np.testing.assert_array_equal(gradient, np.array([0, 2, 4], np.float32))


def test_a_path_that_ends_in_an_integer_is_refused() -> None:
    body = f"whole = Cast<to={onnx.TensorProto.INT32}>(x) y = Cast<to={onnx.TensorProto.FLOAT}>(whole)"
    with pytest.raises(UnsupportedError, match="'x': the path breaks at Cast"):
        joint_graph(parse(body), ["x"], BUILTIN_RULES)
