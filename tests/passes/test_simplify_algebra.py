"""SimplifyAlgebra: cheaper arithmetic with the same values."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.simplify_algebra import SimplifyAlgebra

from .running import check_pass, only, operators, parse

X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
W = np.array([2, -1, 0.5, 4], np.float32)

CONSTANTS = """<float two = {2}, float[1] third = {0.25}, float zero = {0}, float zero2 = {0}, float minus0 = {-0.0},
    int64[2] s34 = {3, 4}, int64[3] s534 = {5, 3, 4}, int64[2] s31 = {3, 1}, int64[1] i0 = {0}, int64[1] i1 = {1},
    int64[2] i12 = {1, 2}, int64[1] last = {-1}, float four = {4}>"""


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Neg (x)  b = Neg (a)  y = Exp (b)", ["Exp"]),
        ("a = Neg (w)  y = Add (x, a)", ["Sub"]),
        ("a = Neg (w)  y = Add (a, x)", ["Sub"]),
        ("a = Neg (w)  y = Sub (x, a)", ["Add"]),
        ("a = Sub (x, w)  y = Neg (a)", ["Sub"]),
        ("a = Neg (x)  b = Neg (w)  y = Mul (a, b)", ["Mul"]),
        ("a = Neg (x)  b = Neg (w)  y = Div (a, b)", ["Div"]),
        ("a = Neg (x)  y = Mul (a, two)", ["Mul"]),
        ("a = Neg (x)  y = Div (a, third)", ["Div"]),
        ("a = Mul (two, x)  y = Neg (a)", ["Mul"]),
        ("a = Mul (x, two)  y = Mul (third, a)", ["Mul"]),
        ("a = Mul (x, two)  b = Mul (a, third)  y = Mul (b, two)", ["Mul"]),
        ("a = Neg (x)  b = Mul (a, two)  c = Neg (b)  y = Sub (c, w)", ["Mul", "Sub"]),
        ("a = Neg (x)  b = Mul (a, w)  y = Add (x, b)", ["Mul", "Sub"]),
        ("a = Neg (w)  b = Div (a, x)  y = Sub (x, b)", ["Div", "Add"]),
        ("a = Neg (x)  b = ReduceSum (a, i1)  c = Mul (x, b)  y = Add (c, w)", ["ReduceSum", "Mul", "Sub"]),
        ("a = Div (x, w)  e = Exp (x)  b = Div (e, w)  y = Sub (a, b)", ["Exp", "Sub", "Div"]),
        ("a = ReduceSum (x, i1)  b = Div (a, four)  y = Mul (b, x)", ["ReduceMean", "Mul"]),
        ("a = Expand (w, s34)  y = Mul (x, a)", ["Mul"]),
        ("a = Expand (zero, s34)  b = Expand (w, s34)  y = Sum (a, x, b)", ["Sum"]),
        ("c = IsNaN (x)  a = Expand (w, s34)  y = Where (c, x, a)", ["IsNaN", "Where"]),
        ("a = Expand (x, s534)  y = ReduceSum <keepdims = 0> (a, i0)", ["Mul"]),
        ("a = Expand (x, s534)  y = ReduceMean <keepdims = 0> (a, i0)", ["Identity"]),
    ],
)
def test_arithmetic_is_rewritten(body: str, left: list[str]) -> None:
    model = parse(f"g (float[3,4] x, float[4] w) => (float[3,4] y) {CONSTANTS} {{ {body} }}")
    assert check_pass(SimplifyAlgebra(), model, {"x": X, "w": W})
    assert operators(model) == left


@pytest.mark.parametrize(
    "body",
    [
        "y = Mul (x, zero)",
        "a = Mul (x, w)  y = Mul (a, two)",
        "c = IsNaN (x)  b = Where (c, zero, minus0)  y = Div (x, b)",
        "a = Add (x, two)  y = Add (a, third)",
        "a = Div (x, third)  y = Mul (a, two)",
        "a = ReduceSum (x, i1)  b = Div (a, two)  y = Mul (b, x)",
        "a = Div (x, w)  b = Div (w, x)  y = Add (a, b)",
    ],
)
def test_what_could_change_the_result_stays(body: str) -> None:
    model = parse(f"g (float[3,4] x, float[4] w) => (float[3,4] y) {CONSTANTS} {{ {body} }}")
    assert not check_pass(SimplifyAlgebra(), model, {"x": X, "w": W})


def test_a_sum_over_repeated_and_other_axes_stays() -> None:
    model = parse(
        f"g (float[3,4] x, float[1,4] v) => (float[4] y, float[4] z) {CONSTANTS} {{"
        " a = Expand (v, s34)  y = ReduceSum <keepdims = 0> (a, i0)"
        " b = Expand (x, s534)  z = ReduceSum <keepdims = 0> (b, i01) }",
        initializers={"i01": np.array([0, 1])},
    )
    assert check_pass(SimplifyAlgebra(), model, {"x": X, "v": W[None]})
    assert operators(model) == ["Mul", "Reshape", "Expand", "ReduceSum"]


def test_expand_of_a_symbolic_size_is_dropped_only_if_another_operand_has_it() -> None:
    model = parse(
        """g (float[n,4] x, float[4] w, float[m,4] v) => (float[n,4] y, float[p,4] z) {
            s = Shape (x)  a = Expand (w, s)  y = Mul (x, a)  b = Expand (w, s)  z = Add (v, b)
        }"""
    )
    assert check_pass(SimplifyAlgebra(), model, {"x": X, "w": W, "v": X[:1]})
    assert operators(model) == ["Shape", "Mul", "Expand", "Add"]


def test_parameters_are_no_constants() -> None:
    model = parse(f"g (float[3,4] x) => (float[3,4] y) {CONSTANTS} {{ a = Mul (x, two)  y = Mul (a, third) }}")
    assert not check_pass(SimplifyAlgebra(protected=["two"]), model, {"x": X})
    assert not check_pass(SimplifyAlgebra(protected=["a"]), model, {"x": X})


def test_values_that_others_read_stay() -> None:
    model = parse(
        f"g (float[3,4] x) => (float[3,4] y, float[3,4] a) {CONSTANTS} {{ a = Mul (x, two)  y = Mul (a, third) }}"
    )
    assert not check_pass(SimplifyAlgebra(), model, {"x": X})


def test_merged_factor_that_leaves_the_range_of_the_type_stays_apart() -> None:
    model = parse(
        """g (float16[3] x) => (float16[3] y, float16[3] z) {
            a = Mul (x, small)  y = Mul (a, small)  b = Mul (x, large)  z = Mul (b, large)
        }""",
        initializers={"small": np.array(1e-3, np.float16), "large": np.array(1e3, np.float16)},
    )
    assert not check_pass(SimplifyAlgebra(), model, {"x": np.array([1000, 0.01, 1], np.float16)})


def test_choice_between_equal_numbers() -> None:
    model = parse(f"g (bool[3,4] c) => (float[3,4] y) {CONSTANTS} {{ w = Where (c, zero, zero2)  y = Neg (w) }}")
    assert check_pass(SimplifyAlgebra(), model, {"c": X > 3})
    assert operators(model) == ["Expand", "Neg"]


def test_rewritten_nodes_keep_provenance() -> None:
    model = parse(f"g (float[3,4] x) => (float[3,4] y) {CONSTANTS} {{ a = Mul (x, two)  y = Mul (a, third) }}")
    model.graph[1].name = "layer/Mul"
    model.graph[1].metadata_props["namespace"] = "layer"
    SimplifyAlgebra().call(model)
    assert only(model, "Mul").metadata_props == {"namespace": "layer"}
    assert str(only(model, "Mul").name).startswith("layer/Mul")
