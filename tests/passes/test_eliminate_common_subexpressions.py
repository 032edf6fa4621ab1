"""EliminateCommonSubexpressions: equal nodes and constants become one, random and recomputed ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.eliminate_common_subexpressions import RECOMPUTE, EliminateCommonSubexpressions

from .running import check_pass, operators, parse, run

X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def test_equal_chains_become_one() -> None:
    model = parse(
        """g (float[3,4] x) => (float[3,4] y) {
            a = Exp (x)  b = Exp (x)
            c = ReduceSum <keepdims = 1> (a)  d = ReduceSum <keepdims = 1> (b)
            e = Div (a, c)  f = Div (b, d)
            y = Add (e, f)
        }"""
    )
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X})
    assert operators(model) == ["Exp", "ReduceSum", "Div", "Add"]
    assert model.graph[0].outputs[0].name == "a"


@pytest.mark.parametrize(
    "body",
    [
        "a = Softmax <axis = 0> (x)  b = Softmax <axis = 1> (x)",
        "a = Cast <to = 1> (x)  b = Cast <to = 1> (w)",
        "a = Sub (x, w)  b = Sub (w, x)",
        "a = Exp (x)  b = Sin (x)",
        "a = Elu <alpha = 0.0> (x)  b = Elu <alpha = -0.0> (x)",
    ],
)
def test_different_nodes_stay(body: str) -> None:
    model = parse(f"g (float[3,4] x, float[3,4] w) => (float[3,4] y) {{ {body}  y = Add (a, b) }}")
    assert not check_pass(EliminateCommonSubexpressions(), model, {"x": X, "w": X[::-1]})


def test_order_of_commuting_inputs_and_omitted_inputs_do_not_matter() -> None:
    model = parse(
        """g (float[3,4] x, float[4] w) => (float[3,4] y) {
            a = Mul (x, w)  b = Mul (w, x)  c = ReduceSum <keepdims = 1> (a)  d = ReduceSum <keepdims = 1> (b, )
            e = Add (a, c)  f = Add (d, b)  y = Sub (e, f)
        }"""
    )
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X, "w": X[0]})
    assert operators(model) == ["Mul", "ReduceSum", "Add", "Sub"]


def test_equal_small_constants_become_one_and_equal_weights_do_not() -> None:
    ones = np.ones(4, np.float32)
    model = parse(
        """g (float[3,4] x) => (float[3,4] y)
        <int64[1] i = {1}, int64[1] j = {1}, int64 k = {1}, float s = {2.0}, float t = {2.0}> {
            a = ReduceSum (x, i)  b = ReduceSum (x, j)  c = Mul (a, s)  d = Mul (b, t)  e = Sub (c, d)
            f = Add (x, v)  g = Add (x, w)  h = Sub (f, g)  y = Add (e, h)
        }""",
        initializers={"v": ones, "w": ones},
    )
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X})
    assert sorted(model.graph.initializers) == ["i", "k", "s", "v", "w"]
    assert operators(model) == ["ReduceSum", "Mul", "Sub", "Add", "Add", "Sub", "Add"]


def test_protected_values_stay_apart() -> None:
    model = parse(
        """g (float[3,4] x) => (float[3,4] y) <float s = {2.0}, float t = {2.0}> {
            a = Mul (x, s)  b = Mul (x, t)  c = Exp (x)  d = Exp (x)  e = Add (a, b)  f = Add (c, d)  y = Add (e, f)
        }"""
    )
    assert not check_pass(EliminateCommonSubexpressions(protected=["s", "t", "d"]), model, {"x": X})


def test_random_and_recomputed_nodes_stay() -> None:
    model = parse(
        """g (float[3,4] x) => (float[3,4] y) <float r = {0.5}, bool train = {1}> {
            a = RandomNormalLike (x)  b = RandomNormalLike (x)  c = Bernoulli (x)  d = Bernoulli (x)
            e = Dropout (x, r, train)  f = Dropout (x, r, train)  g = Exp (x)  h = Exp (x)
            y = Sum (a, b, c, d, e, f, g, h)
        }"""
    )
    recomputed = next(node for node in model.graph if node.outputs[0].name == "h")
    recomputed.metadata_props[RECOMPUTE] = "1"
    assert not EliminateCommonSubexpressions().call(model).modified


def test_inference_dropout_is_merged() -> None:
    model = parse("g (float[3,4] x) => (float[3,4] y) { a = Dropout (x)  b = Dropout (x)  y = Add (a, b) }")
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X})
    assert operators(model) == ["Dropout", "Add"]


def test_one_of_two_equal_outputs_becomes_an_identity() -> None:
    model = parse("g (float[3,4] x) => (float[3,4] y, float[3,4] z) { y = Exp (x)  z = Exp (x) }")
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X})
    assert operators(model) == ["Exp", "Identity"]


def test_output_gives_its_name_to_the_earlier_node() -> None:
    model = parse("g (float[3,4] x) => (float[3,4] z, float[3,4] y) { a = Exp (x)  z = Neg (a)  y = Exp (x) }")
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X})
    assert operators(model) == ["Exp", "Neg"]


def test_node_with_fewer_outputs_is_merged_into_the_one_with_more() -> None:
    text = """g (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] j) {{
        {}  y = Mul (a, b)  j = Neg (i)
    }}"""
    both, one = (
        "a, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
        "b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
    )
    feeds = {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)}
    model = parse(text.format(f"{both}  {one}"))
    assert check_pass(EliminateCommonSubexpressions(), model, feeds)
    assert operators(model) == ["MaxPool", "Mul", "Neg"]
    model = parse(text.format(f"{one}  {both}"))
    assert not check_pass(EliminateCommonSubexpressions(), model, feeds)


def test_branches_are_not_merged_with_each_other() -> None:
    model = parse(
        """g (bool c, float[3,4] x) => (float[3,4] y) {
            y = If (c) <
                then_branch = t () => (float[3,4] a) { u = Exp (x)  v = Exp (x)  a = Add (u, v) },
                else_branch = e () => (float[3,4] b) { b = Exp (x) }
            >
        }"""
    )
    assert check_pass(EliminateCommonSubexpressions(), model, {"x": X, "c": np.array(True)})
    assert sorted(node.op_type for node in model.graph.all_nodes()) == ["Add", "Exp", "Exp", "If"]
    assert run(model, {"x": X, "c": np.array(False)})["y"].shape == (3, 4)
