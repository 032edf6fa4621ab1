"""Where the derivative is finite, so is the gradient: elements that were not picked, zeros of norms, masked rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxgrad

X = np.array([2.0, 0.0, -1.0, 0.5], np.float32)


def gradient(body: str, x: np.ndarray, initializers: str = "") -> np.ndarray:
    sizes = ",".join(str(size) for size in x.shape)
    graph = f"g (float[{sizes}] x) => (float[{sizes}] y) <{initializers}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {graph}')
    session = onnxgrad.compile(model, wrt="inputs").session()
    return session.grad({"x": x}, {"y": np.ones_like(x)})["x"]


@pytest.mark.parametrize(
    ("singular", "derivative"),
    [
        ("v = Log (x)", lambda x: 1 / x),
        ("v = Sqrt (x)", lambda x: 0.5 / np.sqrt(x)),
        ("v = Reciprocal (x)", lambda x: -1 / x**2),
        ("v = Div (one, x)", lambda x: -1 / x**2),
        ("v = Pow (x, half)", lambda x: 0.5 / np.sqrt(x)),
        ("l = Log (x) k = Neg (l) v = Exp (k)", lambda x: -1 / x**2),
    ],
)
def test_elements_that_were_not_picked(singular: str, derivative: object) -> None:
    found = gradient(
        f"c = Greater (x, zero) {singular} y = Where (c, v, x)",
        X,
        "float one = {1}, float zero = {0}, float half = {0.5}",
    )
    assert callable(derivative)
    with np.errstate(all="ignore"):
        expected = np.where(X > 0, derivative(X), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("rearranged", "back"),
    [
        ("t = Transpose (l)", np.transpose),
        ("s = Reshape (l, flat) t = Reshape (s, square)", lambda g: g),
    ],
)
def test_elements_that_are_rearranged_before_they_are_picked(
    rearranged: str, back: Callable[[np.ndarray], np.ndarray]
) -> None:
    found = gradient(
        f"l = Log (x) {rearranged} y = Where (c, t, zero)",
        X.reshape(2, 2),
        "float zero = {0}, bool[2, 2] c = {1, 1, 0, 0}, int64[1] flat = {-1}, int64[2] square = {2, 2}",
    )
    picked = back(np.array([[1.0, 1.0], [0.0, 0.0]]))
    with np.errstate(all="ignore"):
        expected = np.where(picked == 1, 1 / X.reshape(2, 2), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Log (x)", ["Log", "Div"]),
        ("s = Div (x, two) y = Where (c, s, two)", ["Div", "Where", "Where", "Div"]),
    ],
)
def test_the_guard_costs_nothing_where_nothing_can_happen(body: str, expected: list[str]) -> None:
    graph = f"g (float[3] x, bool[3] c) => (float[3] y) <float two = {{2}}> {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {graph}')
    program = onnxgrad.compile(model, wrt="x")
    assert Counter(node.op_type for node in program.model.graph) == Counter(expected)


@pytest.mark.parametrize("norm", ["ReduceL2", "ReduceL1", "ReduceSumSquare"])
def test_norms_at_zero(norm: str) -> None:
    found = gradient(f"n = {norm} (x, axis) y = Mul (x, n)", np.zeros((2, 3), np.float32), "int64[1] axis = {1}")
    np.testing.assert_array_equal(found, 0)


def test_power_at_zero() -> None:
    found = gradient("y = Pow (x, two)", np.zeros(3, np.float32), "float two = {2}")
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_masked_elements(operator: str) -> None:
    """The mask is added, as -inf for what is hidden."""
    x = np.array([[1.0, 2.0, 3.0], [0.5, 0.1, 0.2]], np.float32)
    found = gradient(
        f"s = Where (hidden, low, x) p = {operator} (s) q = Where (hidden, x, p) y = Mul (q, q)",
        x,
        "bool[3] hidden = {0, 0, 1}, float low = {-inf}",
    )
    assert np.all(np.isfinite(found))
    alone = gradient(f"p = {operator} (x) y = Mul (p, p)", x[:, :2])
    np.testing.assert_allclose(found[:, :2], alone, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], 2 * x[:, 2], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["ReduceMax", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean"])
def test_nothing_is_reduced(reduction: str) -> None:
    """The derivative of the empty gradient with respect to the seed is 0, not 0 / 0."""
    graph = f"g (float[2, 0] x) => (float[2] y) <int64[1] axis = {{1}}> {{ y = {reduction} <keepdims = 0> (x, axis) }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {graph}')
    first = onnxgrad.compile(model, wrt="inputs")
    second = onnxgrad.compile(first.model, wrt=["y.grad_output"], outputs=["x.grad"], materialize_grads=True)
    x, seed = np.zeros((2, 0), np.float32), np.ones(2, np.float32)
    gradients = second.session().grad({"x": x, "y.grad_output": seed}, {"x.grad": x})
    np.testing.assert_array_equal(gradients["y.grad_output"], 0)
