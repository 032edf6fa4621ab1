"""Of what nodes tangents are made: of the operator where it is linear, of its VJP rule, or of a transposed VJP."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

import onnxgrad
from onnxgrad.passes import linearity, symmetry
from onnxgrad.passes.registry import Registry, Rule
from onnxgrad.passes.rules import BUILTIN_RULES
from tests.compiler.forward_models import parse, random

from .laws import TANGENT, Evaluator, both, check_adjoint, nodes_behind
from .modules import CASES, Case
from .running import relative_error, run

W = {
    "w": random(4, 2, 3, 3, seed=1),
    "b": random(4, seed=2),
    "m": random(3, 4, seed=3),
    "k": random(4, 2, seed=6),
    "n": random(3, seed=7),
    "v": random(4, seed=4),
    "s31": np.array([3, 1]),
    "mean": random(4, seed=8),
    "positive": np.exp(random(4, seed=5)),
    "number": np.array(0.5, np.float32),
    "axis": np.array([-1]),
    "pads": np.array([0, 0, 1, 1]),
    "rows": np.array([2, 0]),
    "mask": np.array([True, False, True]),
}
MATRIX, IMAGE = "g (float[3, 4] x) => (float[A, B] y)", "g (float[N, 2, 6, 5] x) => (float[N, 4, H, V] y)"


@pytest.mark.parametrize(
    ("graph", "body", "wrt", "nodes"),
    [
        (MATRIX, "y = MatMul (x, k)", "x", "MatMul"),
        (MATRIX, "y = MatMul (x, k)", "x k", "MatMul MatMul Add"),
        (MATRIX, "y = Gemm <transB = 1> (x, m, n)", "x", "Gemm"),
        (MATRIX, "y = Gemm <transB = 1> (x, m, n)", "x m n", "Gemm Gemm"),
        (MATRIX, "y = Gemm <transB = 1, beta = 0.5> (x, m, n)", "x m", "Gemm Gemm Add"),
        (MATRIX, "y = Mul (x, v)", "x v", "Mul Mul Add"),
        (MATRIX, "y = Mul (x, x)", "x", "Mul Add"),
        (MATRIX, "y = Div (x, positive)", "x", "Div"),
        (MATRIX, "y = Add (x, v)", "x", "Identity"),
        (MATRIX, "y = Add (x, v)", "v", "Expand"),
        (MATRIX, "y = Sub (x, v)", "x v", "Sub"),
        (MATRIX, "y = Sub (v, x)", "x", "Sub"),
        (MATRIX, "y = Sum (x, v, m)", "x m", "Sum"),
        (MATRIX, "y = Concat <axis = 0> (m, x)", "x", "Concat"),
        (MATRIX, "y = Pad (x, pads, number)", "x", "Pad"),
        (MATRIX, "y = Pad (x, pads, number)", "x number", "Pad"),
        (MATRIX, "y = ReduceMean <keepdims = 1> (x, axis)", "x", "ReduceMean"),
        (MATRIX, "y = Gather (x, rows)", "x", "Gather"),
        (MATRIX, 'y = Einsum <equation = "ij,kj->ik"> (x, m)', "x m", "Einsum Einsum Add"),
        (MATRIX, "t3 = Reshape (mask, s31) y = Where (t3, x, v)", "x v", "Where"),
        (MATRIX, "t3 = Reshape (mask, s31) y = Where (t3, v, x)", "x", "Where"),
        (MATRIX, "a, y = Split <axis = 1, num_outputs = 2> (x)", "x", "Split"),
        (IMAGE, "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)", "x", "Conv"),
        (IMAGE, "y = Conv <pads = [1, 1, 1, 1], strides = [2, 1]> (x, w, b)", "x w b", "Conv Conv Add"),
        (IMAGE, "c = Conv (x, w) y = BatchNormalization (c, v, b, mean, positive)", "x", "Conv BatchNormalization"),
        (IMAGE, "c = Conv (x, w) y = BatchNormalization (c, v, b, mean, positive)", "v b", "BatchNormalization"),
        (MATRIX, "y = LayerNormalization (x, v, b)", "v b", "LayerNormalization"),
        (MATRIX, "y = Relu (x)", "x", "LessOrEqual Where"),
        (MATRIX, "y = Tanh (x)", "x", "Mul Sub Mul"),
        (MATRIX, "y = Exp (x)", "x", "Mul"),
        (MATRIX, "y = Softmax (x)", "x", "Mul ReduceSum Sub Mul"),
        (MATRIX, "e = Exp (x) y = Div (x, e)", "x", "Mul Mul Sub Div"),
    ],
)
def test_nodes_of_tangents(graph: str, body: str, wrt: str, nodes: str) -> None:
    """In any order. The numbers agree with the vector-Jacobian product's."""
    initializers = {name: array for name, array in W.items() if name in re.findall(r"\w+", body)}
    model, names = parse(f"{graph} {{ {body} }}", initializers), wrt.split()
    pushed = onnxgrad.jvp(model, wrt=names)
    forward = {node.name for node in nodes_behind(pushed, lambda name: not name.endswith(TANGENT))}
    found = [node.op_type for node in pushed.graph.node if node.name not in forward]
    assert sorted(found) == sorted(nodes.split())

    x = random(2, 2, 6, 5, seed=8) if graph == IMAGE else random(3, 4, seed=8)
    evaluator = Evaluator(both(model, names, ["y"]))
    check = check_adjoint(evaluator, {"x": x}, Evaluator(model)({"x": x}))
    assert check.error < 1e-6
    assert check.size > 0


@pytest.mark.parametrize(
    "body", ["Mul (x, x)", "Div (x, x)", "Sub (x, x)", "Pow (x, x)", "MatMul (x, x)", "Max (x, x)"]
)
def test_one_value_in_two_places(body: str) -> None:
    model = parse(f"g (double[2, 2] x) => (double[2, 2] y) {{ y = {body} }}")
    x, v = np.exp(random(2, 2)).astype(np.float64), random(2, 2, seed=1).astype(np.float64)
    tangent = run(onnxgrad.jvp(model), {"x": x, "x.tangent": v})["y.tangent"]
    ahead, behind = (run(model, {"x": x + step * v})["y"] for step in (1e-6, -1e-6))
    np.testing.assert_allclose(tangent, (ahead - behind) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "float", "double"])
def test_a_tangent_has_the_shape_and_type_of_its_value(dtype: str) -> None:
    """Also where only what is broadcast has one, and sizes are known when the graph runs."""
    model = parse(
        f"g ({dtype}[K] x, {dtype}[N, K] c) => ({dtype}[N, K] y, {dtype}[N, K] z) {{ y = Add (x, c) z = Sub (c, x) }}"
    )
    kind = {"float": np.float32}.get(dtype) or np.dtype(dtype)
    v = np.array([1, -2], kind)
    result = run(onnxgrad.jvp(model, wrt=["x"]), {"x": v, "c": np.ones((3, 2), kind), "x.tangent": v})
    np.testing.assert_array_equal(result["y.tangent"], np.array([v] * 3))
    np.testing.assert_array_equal(result["z.tangent"], np.array([-v] * 3))
    assert result["y.tangent"].dtype == kind


def test_a_value_between_has_a_tangent_of_its_own_and_that_of_its_input() -> None:
    model = parse("g (float[3] x) => (float[3] y) { h = Sin (x) y = Mul (h, h) }")
    x, v, u = random(3), random(3, seed=1), random(3, seed=2)
    result = run(onnxgrad.jvp(model, wrt=["x", "h"]), {"x": x, "x.tangent": v, "h.tangent": u})
    assert relative_error(result["y.tangent"], 2 * np.sin(x) * (np.cos(x) * v + u)) < 1e-6


@pytest.mark.parametrize("operator", ["Neg", "Exp", "MatMul", "LogSoftmax"])
def test_a_rule_of_the_users_is_asked_about_any_operator(operator: str) -> None:
    """Also about those whose tangents need none: linear, elementwise, or neither."""
    rules = Registry(BUILTIN_RULES)

    @rules.vjp(operator)
    def tripled(n: onnxgrad.Primal, dy: Any) -> Any:
        return lambda: dy * 3.0

    second = ", w" if operator == "MatMul" else ""
    model = parse(
        f"g (float[4] x) => (float[4] y) {{ y = {operator} (x{second}) }}", {"w": random(4, 4)} if second else {}
    )
    v = random(4, seed=1)
    result = run(onnxgrad.jvp(model, wrt=["x"], rules=rules), {"x": random(4), "x.tangent": v})
    assert relative_error(result["y.tangent"], 3 * v) < 1e-6


@pytest.mark.parametrize(
    ("mark", "factor"), [({"scale_gradient": {"h": -2.0}}, -2.0), ({"straight_through": ["y"]}, 1.0)]
)
def test_marks_hold_forward_too(mark: dict[str, Any], factor: float) -> None:
    operator = "Round" if "straight_through" in mark else "Neg"
    model = onnxgrad.mark(parse(f"g (float[3] x) => (float[3] y) {{ h = Neg (x) y = {operator} (h) }}"), **mark)
    v = random(3, seed=1)
    tangent = run(onnxgrad.jvp(model), {"x": random(3), "x.tangent": v})["y.tangent"]
    assert relative_error(tangent, v * factor * (-1 if operator == "Round" else 1)) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_transposed_throughout_it_is_the_same(case: Case) -> None:
    transposed = Registry()
    for domain, op_type, entry in BUILTIN_RULES:
        copy = dataclasses.replace(entry) if isinstance(entry, Rule) else entry
        transposed._entries[domain, op_type] = copy
    feeds = {"x": case.sample().numpy(), "x.tangent": case.sample(2).numpy()}
    lean, plain = onnxgrad.jvp(case.exported), onnxgrad.jvp(case.exported, rules=transposed)
    assert len(lean.graph.node) <= len(plain.graph.node)
    assert relative_error(run(lean, feeds)["y.tangent"], run(plain, feeds)["y.tangent"]) < 1e-5


def test_behind_a_node_that_its_rule_replaces() -> None:
    """The rule of an LSTM puts a Scan in its place, whose outputs all kinds of nodes read."""
    model = parse(
        """g (float[3, 2, 4] x) => (float[3, 1, 2, 4] y, float[3, 1, 2, 4] z, float[3, 1, 2, 4] u) {
            h = LSTM <hidden_size = 4> (x, w, r)
            y = Tanh (h)  z = Neg (h)  u = LogSoftmax (h)
        }""",
        {"w": random(1, 16, 4), "r": random(1, 16, 4, seed=1)},
    )
    feeds = {"x": random(3, 2, 4, seed=2)}
    check = check_adjoint(Evaluator(both(model, ["x"], ["y", "z", "u"])), feeds, Evaluator(model)(feeds))
    assert check.error < 1e-6
    pushed = run(onnxgrad.jvp(model), {**feeds, "x.tangent": random(3, 2, 4, seed=3)})
    assert relative_error(pushed["y.tangent"], pushed["z.tangent"] * (pushed["y"] ** 2 - 1)) < 1e-6


def test_what_is_declared_has_a_rule() -> None:
    """Each operator is declared once, by a name that exists, and is differentiable."""
    tables = (linearity._TOGETHER, linearity._EACH, linearity._IN_THE_FIRST, linearity._OTHERS)
    linear = [name for table in tables for name in table]
    assert len(set(linear)) == len(linear)
    assert set(linear) & (symmetry._ELEMENTWISE | symmetry._WITHIN_ROWS) == {"Div"}, "of its divisor it is not linear"
    ruled = {op_type for domain, op_type, entry in BUILTIN_RULES if domain == "" and isinstance(entry, Rule)}
    assert {*linear, *symmetry._ELEMENTWISE, *symmetry._WITHIN_ROWS} <= ruled
