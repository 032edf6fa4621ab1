"""The elementary functions against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from .checking import check_edge_values, check_rule

SHAPES = [(), (3,), (2, 3)]


def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    return np.random.default_rng([1, *shape]).uniform(low, high, shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("op_type", "function", "low", "high"),
    [
        ("Reciprocal", torch.reciprocal, 0.5, 2.0),
        ("Reciprocal", torch.reciprocal, -2.0, -0.5),
        ("Sqrt", torch.sqrt, 0.2, 3.0),
        ("Exp", torch.exp, -2.0, 2.0),
        ("Log", torch.log, 0.2, 3.0),
        ("Erf", torch.erf, -2.0, 2.0),
        ("Sin", torch.sin, -4.0, 4.0),
        ("Cos", torch.cos, -4.0, 4.0),
        ("Tan", torch.tan, -1.2, 1.2),
        ("Asin", torch.asin, -0.8, 0.8),
        ("Acos", torch.acos, -0.8, 0.8),
        ("Atan", torch.atan, -3.0, 3.0),
        ("Sinh", torch.sinh, -2.0, 2.0),
        ("Cosh", torch.cosh, -2.0, 2.0),
        ("Asinh", torch.asinh, -3.0, 3.0),
        ("Acosh", torch.acosh, 1.3, 4.0),
        ("Atanh", torch.atanh, -0.8, 0.8),
    ],
)
def test_smooth_functions(
    op_type: str,
    function: Callable[[torch.Tensor], torch.Tensor],
    low: float,
    high: float,
    shape: tuple[int, ...],
) -> None:
    check_rule(op_type, [uniform(*shape, low=low, high=high)], torch_function=function)


@pytest.mark.parametrize("shape", SHAPES)
def test_abs(shape: tuple[int, ...]) -> None:
    x = uniform(*shape, low=0.2, high=1)
    check_rule("Abs", [x], torch_function=torch.abs)
    check_rule("Abs", [-x], torch_function=torch.abs)


@pytest.mark.parametrize(
    ("op_type", "function", "points"),
    [
        ("Abs", torch.abs, [0.0, -0.0, np.inf, -np.inf]),
        ("Sqrt", torch.sqrt, [0.0, -1.0]),
        ("Log", torch.log, [0.0]),
        ("Reciprocal", torch.reciprocal, [0.0]),
        ("Asin", torch.asin, [-1.0, 1.0]),
        ("Acos", torch.acos, [-1.0, 1.0]),
        ("Acosh", torch.acosh, [1.0]),
        ("Atanh", torch.atanh, [-1.0, 1.0]),
        ("Cosh", torch.cosh, [0.0]),
        ("Erf", torch.erf, [np.inf, -np.inf]),
        ("Exp", torch.exp, [-np.inf]),
    ],
)
def test_singular_points(op_type: str, function: Callable[[torch.Tensor], torch.Tensor], points: list[float]) -> None:
    check_edge_values(op_type, [np.array(points)], function)


@pytest.mark.parametrize(("op_type", "function"), [("Sinh", torch.sinh), ("Cosh", torch.cosh)])
def test_hyperbolic_slopes_keep_their_digits(op_type: str, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Each value on its own, from near 0, where sinh is tiny, to near the end of float32."""
    x = np.array([-80.0, -10.0, -1e-3, 1e-3, 10.0, 80.0])
    check_edge_values(op_type, [x], function, runtime_dtypes=[np.float32])


@pytest.mark.parametrize(
    ("base", "exponent"),
    [((), ()), ((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (2, 1)), ((2, 1, 3), (4, 1)), ((), (2,)), ((2, 3), ())],
)
def test_pow(base: tuple[int, ...], exponent: tuple[int, ...]) -> None:
    x, p = uniform(*base, low=0.3, high=2), uniform(*exponent, low=-2, high=3)
    check_rule("Pow", [x, p], torch_function=torch.pow)


@pytest.mark.parametrize("power", [-2.0, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_pow_of_a_constant_exponent(power: float, shape: tuple[int, ...]) -> None:
    exponent = np.full(shape, power)
    check_rule("Pow", [uniform(2, 3, low=0.3, high=2), exponent], constants=[1], torch_function=torch.pow)


def test_pow_of_a_constant_exponent_with_more_axes_than_the_base() -> None:
    check_rule("Pow", [np.array(1.5), np.full((1, 1), 2.0)], constants=[1], torch_function=torch.pow)
    check_rule("Pow", [uniform(3, low=0.3), np.array([[1.0], [2.5]])], constants=[1], torch_function=torch.pow)


@pytest.mark.parametrize("exponents", [[2.0, 3.0, -1.0], [0.0, 1.0, 2.0]])
@pytest.mark.parametrize("constant", [True, False])
def test_pow_of_a_negative_base(exponents: list[float], constant: bool) -> None:
    check_rule(
        "Pow",
        [uniform(2, 3, low=-2, high=-0.3), np.array(exponents)],
        wrt=[0],
        constants=[1] if constant else [],
        torch_function=torch.pow,
    )


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("constant", [True, False])
def test_pow_of_an_integer_exponent(dtype: type, constant: bool) -> None:
    check_rule(
        "Pow",
        [uniform(2, 3, low=0.3, high=2), np.array([2, 3, -1], dtype)],
        constants=[1] if constant else [],
        torch_function=torch.pow,
    )


def test_pow_at_its_edges() -> None:
    """0⁰, 0ᵖ, and negative bases, whose derivative in the exponent is NaN."""
    x = np.array([0.0, 0.0, 0.0, 0.0, 2.0, -2.0, -2.0, 0.0])
    p = np.array([0.0, 2.0, 0.5, 1.0, 0.0, 3.0, 0.0, -1.0])
    check_edge_values("Pow", [x, p], torch.pow)
    check_edge_values("Pow", [x, p], torch.pow, constants=[1])
    for power in (0.5, 1.0, 2.0, 3.0, -1.0):
        check_edge_values("Pow", [np.array([0.0, 1.0]), np.array(power)], torch.pow, constants=[1])


def test_pow_is_twice_differentiable_at_zero() -> None:
    """Where finite differences across a base of 0 exist: integer exponents."""
    x, p = np.array([0.0, 0.0, 1.5]), np.array([2.0, 3.0, 0.0])
    check_rule("Pow", [x, p], wrt=[0], torch_function=torch.pow)
