"""MergeViews: chains of transposes, reshapes, expands and casts become one node, or none."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.merge_views import MergeViews

from .running import check_pass, operators, parse

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

CONSTANTS = """<int64[1] i0 = {0}, int64[1] i1 = {1}, int64[2] s64 = {6, 4}, int64[2] sm2 = {-1, 2},
    int64[2] copy = {0, -1}, int64[3] s234 = {2, 3, 4}, int64[4] s5 = {5, 2, 3, 4}, int64[5] s65 = {6, 5, 2, 3, 4}>"""


@pytest.mark.parametrize(
    ("body", "result", "left"),
    [
        ("a = Transpose <perm = [1, 2, 0]> (x)  y = Transpose <perm = [2, 1, 0]> (a)", "2,4,3", ["Transpose"]),
        ("a = Transpose (x)  b = Transpose <perm = [1, 0, 2]> (a)  y = Transpose (b)", "2,4,3", ["Transpose"]),
        ("a = Reshape (x, s64)  y = Reshape (a, sm2)", "12,2", ["Reshape"]),
        ("a = Reshape (x, s64)  y = Reshape (a, copy)", "6,4", ["Reshape"]),
        ("a = Flatten <axis = 2> (x)  b = Unsqueeze (a, i1)  y = Squeeze (b, i1)", "6,4", ["Reshape"]),
        ("a = Expand (x, s5)  y = Expand (a, s65)", "6,5,2,3,4", ["Expand"]),
        ("a = Cast <to = 11> (x)  y = Cast <to = 1> (a)", "2,3,4", ["Neg"]),
        ("a = Unsqueeze (x, i1)  b = Squeeze (a, i1)  y = Neg (b)", "2,3,4", ["Neg"]),
        ("a = Reshape (x, s64)  b = Reshape (a, s234)  y = Neg (b)", "2,3,4", ["Neg"]),
    ],
)
def test_chains_are_merged(body: str, result: str, left: list[str]) -> None:
    if "Neg" not in body:
        body = body.replace("(x", "(h")
        body = f"h = Neg (x)  {body}"
        left = ["Neg", *[op for op in left if op != "Neg"]]
    model = parse(f"g (float[2,3,4] x) => (float[{result}] y) {CONSTANTS} {{ {body} }}")
    assert check_pass(MergeViews(), model, {"x": X})
    assert operators(model) == left


def test_transposes_that_move_only_axes_of_size_1_are_reshapes() -> None:
    body = """a = Transpose <perm = [1, 0, 2, 3]> (x)  y = Neg (a)
        b = Transpose <perm = [0, 1, 3, 2]> (x)  z = Neg (b)  t = Transpose <perm = [1, 0]> (m)"""
    model = parse(
        f"g (float[2,1,n,4] x, float[1,3] m) => (float[1,2,n,4] y, float[2,1,4,n] z, float[3,1] t) {{ {body} }}"
    )
    assert check_pass(MergeViews(), model, {"x": X.reshape(2, 1, 3, 4), "m": X[0, :1, :3]})
    assert operators(model) == ["Reshape", "Neg", "Transpose", "Neg", "Transpose"]


def test_what_is_picked_from_a_list_is_shaped_as_the_positions() -> None:
    model = parse(
        f"""g (float[24] x, int64[2,3] i, int64[6] j) => (float[2,3] y, float[2,3] z) {CONSTANTS} {{
            flat = Reshape (i, all)  a = GatherElements (x, flat)  y = Reshape (a, s23)
            b = GatherElements (x, j)  z = Reshape (b, s23)
        }}""",
        initializers={"all": np.array([-1]), "s23": np.array([2, 3])},
    )
    positions = np.array([[3, 0, -1], [5, 5, 23]])
    assert check_pass(MergeViews(), model, {"x": X.reshape(-1), "i": positions, "j": positions.reshape(-1)})
    assert operators(model) == ["Gather", "GatherElements", "Reshape"]


@pytest.mark.parametrize("between", [6, 7, 10])
def test_casts_that_lose_something_stay(between: int) -> None:
    x = np.array([0.1, -2.7, 300.5], np.float32)
    model = parse(f"g (float[3] x) => (float[3] y) {{ a = Cast <to = {between}> (x)  y = Cast <to = 1> (a) }}")
    assert not check_pass(MergeViews(), model, {"x": x})


def test_casts_that_lose_nothing_become_one() -> None:
    model = parse("g (bool[3] x) => (float[3] y) { a = Cast <to = 7> (x)  b = Cast <to = 1> (a)  y = Neg (b) }")
    assert check_pass(MergeViews(), model, {"x": np.array([True, False, True])})
    assert operators(model) == ["Cast", "Neg"]


def test_symbolic_sizes_stay_symbolic() -> None:
    model = parse(
        """g (float[n,3,4] x) => (float[m,2] y, float[n,k] z)
        <int64[2] sm4 = {-1, 4}, int64[2] sm2 = {-1, 2}, int64[1] i1 = {1}> {
            a = Reshape (x, sm4)  y = Reshape (a, sm2)  b = Unsqueeze (x, i1)  z = Flatten (b)
        }"""
    )
    assert check_pass(MergeViews(), model, {"x": X})
    assert operators(model) == ["Reshape", "Reshape"]


def test_sizes_that_an_outer_reshape_copies_from_an_unknown_shape_stay() -> None:
    model = parse(
        """g (float[n,m,k] x, int64[2] s) => (float[p,q] y) <int64[2] copy = {0, -1}> {
            a = Reshape (x, s)  y = Reshape (a, copy)
        }"""
    )
    assert not check_pass(MergeViews(), model, {"x": X, "s": np.array([6, 4])})


def test_inner_nodes_that_others_read_stay() -> None:
    model = parse(
        """g (float[2,3,4] x) => (float[2,4,3] y, float[4,3,2] z) {
            z = Transpose (x)  y = Transpose <perm = [2, 0, 1]> (z)
        }"""
    )
    assert check_pass(MergeViews(), model, {"x": X})
    assert operators(model) == ["Transpose", "Transpose"]
    assert model.graph[1].inputs[0] is model.graph.inputs[0]


def test_rows_of_a_product_that_is_an_output_are_merged_before() -> None:
    model = parse(
        "g (float[B,T,4] x, float[4,3] w) => (float[N,3] y) <int64[2] rows = {-1, 3}>"
        " { p = MatMul (x, w)  y = Reshape (p, rows) }"
    )
    generator = np.random.default_rng(0)
    shapes = {"x": (2, 5, 4), "w": (4, 3)}
    feeds = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    assert check_pass(MergeViews(), model, feeds, rtol=1e-6)
    assert [node.op_type for node in model.graph] == ["Reshape", "MatMul"]
