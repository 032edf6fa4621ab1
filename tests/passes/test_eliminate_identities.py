"""EliminateIdentities: what changes nothing goes; what only looks like it stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.eliminate_identities import EliminateIdentities

from .running import check_pass, operators, parse

X = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)

CONSTANTS = """<float one = {1}, float[1,1] one2 = {1}, float zero = {0}, float half = {0.5}, bool no = {0},
    bool[3,4] all = {1,1,1,1,1,1,1,1,1,1,1,1}, bool[3,4] none = {0,0,0,0,0,0,0,0,0,0,0,0},
    int64[2] s34 = {3, 4}, int64[2] sm = {-1, 4}, int64[1] i0 = {0}, int64[2] i00 = {0, 0}, int64[2] i01 = {0, 1},
    int64[1] big = {9}, int64[1] minus = {-1}, int64[1] lowest = {-9}, int64[2] i11 = {1, 1}, int64[1] i1 = {1},
    int64[4] pads = {0, 0, 0, 0}, int64[4] shift = {1, 0, -1, 0}, int64[0] nothing = {}>"""


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity (h)",
        "y = Cast <to = 1> (h)",
        "y = CastLike (h, one)",
        "y = Reshape (h, s34)",
        "y = Reshape (h, sm)",
        "y = Expand (h, s34)",
        "y = Expand (h, i11)",
        "y = Flatten (h)",
        "y = Tile (h, i11)",
        "y = Transpose <perm = [0, 1]> (h)",
        "y = Slice (h, i0, big, i1)",
        "y = Slice (h, i0, big, i1, i1)",
        "y = Pad (h, pads)",
        "y = Dropout (h)",
        "y = Dropout (h, half, no)",
        "y = Concat <axis = 1> (h)",
        "y = Sum (h)",
        "y = Max (h)",
        "y = Mean (h)",
        "y = Clip (h)",
        "y = Mul (h, one)",
        "y = Mul (one2, h)",
        "y = Add (h, zero)",
        "y = Add (zero, h)",
        "y = Sub (h, zero)",
        "y = Div (h, one)",
        "y = Pow (h, one)",
        "y = Where (all, h, x)",
        "y = Where (none, x, h)",
        "c = IsNaN (x)  y = Where (c, h, h)",
        "y = ReduceSum <noop_with_empty_axes = 1> (h, nothing)",
        "u = Unsqueeze (h, i0)  v = ReduceMean <keepdims = 1> (u, i0)  y = Squeeze (v, i0)",
    ],
)
def test_identities_are_removed(body: str) -> None:
    model = parse(f"g (float[3,4] x) => (float[3,4] y) {CONSTANTS} {{ h = Neg (x)  {body} }}")
    assert check_pass(EliminateIdentities(), model, {"x": X})
    left = [op for op in operators(model) if op not in ("IsNaN", "Unsqueeze", "Squeeze")]
    assert left == ["Neg"]
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    "body",
    [
        "t = Sub (one, x)  y = Div (one, t)",
        "y = Sub (zero, x)",
        "y = Pad (x, shift)",
        "y = Slice (x, big, lowest, i1, minus)",
        "y = Transpose <perm = [1, 0]> (x)",
        "y = Where (all, one, x)",
        "y = Unsqueeze (x, i0)",
        "y = ReduceSum (x, i0)",
        "y = Cast <to = 11> (x)",
    ],
)
def test_look_alikes_stay(body: str) -> None:
    dtype = "double" if "11" in body else "float"
    rank = {"Transpose": "4,3", "Unsqueeze": "1,3,4", "ReduceSum": "1,4"}
    shape = next((shape for op, shape in rank.items() if op in body), "3,4")
    model = parse(f"g (float[3,4] x) => ({dtype}[{shape}] y) {CONSTANTS} {{ {body} }}")
    before = operators(model)
    check_pass(EliminateIdentities(), model, {"x": X})
    assert operators(model) == before


def test_neutral_constant_that_broadcasts_stays() -> None:
    model = parse("g (float[4] x) => (float[1,4] y) <float[1,1] one = {1}> { y = Mul (x, one) }")
    assert not check_pass(EliminateIdentities(), model, {"x": X[0]})


def test_parameters_are_no_constants() -> None:
    model = parse(
        "g (float[3,4] x) => (float[3,4] y) <float scale = {1}> { h = Mul (x, scale)  y = Add (h, w) }",
        initializers={"w": np.zeros(4, np.float32)},
    )
    assert not check_pass(EliminateIdentities(protected=["scale"]), model, {"x": X})


def test_symbolic_sizes_of_one_name_are_equal() -> None:
    model = parse(
        """g (float[n,m] x, float[m,n] z) => (float[n,m] y, float[n,m] w) {
            s = Shape (x)  h = Neg (x)  y = Reshape (h, s)  w = Reshape (z, s)
        }"""
    )
    assert check_pass(EliminateIdentities(), model, {"x": X, "z": X.T})
    assert operators(model) == ["Shape", "Neg", "Reshape"]


def test_output_that_is_an_input_stays_an_identity() -> None:
    model = parse(
        "g (float[3,4] x) => (float[3,4] y, float[3,4] z) <float one = {1}> { y = Identity (x)  z = Mul (x, one) }"
    )
    assert check_pass(EliminateIdentities(), model, {"x": X})
    assert operators(model) == ["Identity", "Identity"]


def test_protected_values_stay() -> None:
    model = parse("g (float[3,4] x) => (float[3,4] y) { h = Neg (x)  k = Identity (h)  y = Identity (k) }")
    assert not check_pass(EliminateIdentities(protected=["k"]), model, {"x": X})
    assert [node.outputs[0].name for node in model.graph] == ["h", "k", "y"]


def test_dropout_with_a_mask_that_is_read_stays() -> None:
    model = parse("g (float[3,4] x) => (float[3,4] y, bool[3,4] m) { y, m = Dropout (x) }")
    assert not check_pass(EliminateIdentities(), model, {"x": X})


def test_subgraph_output_is_kept_inside() -> None:
    model = parse(
        """g (bool c, float[3,4] x) => (float[3,4] y) {
            y = If (c) <
                then_branch = t () => (float[3,4] a) { h = Neg (x)  a = Identity (h) },
                else_branch = e () => (float[3,4] b) { b = Identity (x) }
            >
        }"""
    )
    assert check_pass(EliminateIdentities(), model, {"x": X, "c": np.array(True)})
    assert [node.op_type for node in model.graph.all_nodes()] == ["If", "Neg", "Identity"]
