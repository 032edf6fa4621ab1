"""JoinParts: padded parts side by side, added, become a Concat."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.passes.join_parts import JoinParts

from .running import check_pass, operators, parse

ROWS = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
FEEDS = {"a": ROWS, "b": ROWS * 10, "c": ROWS * 100, "z": np.zeros((6, 3), np.float32)}
PADS = {
    "first": [0, 0, 4, 0],
    "second": [2, 0, 2, 0],
    "third": [4, 0, 0, 0],
    "left": [0, 0, 0, 3],
    "below": [4, 3, 0, 0],
}


def text(body: str, shape: str = "6,3") -> str:
    inputs = "float[2,3] a, float[2,3] b, float[2,3] c, float[6,3] z"
    return f"g ({inputs}) => (float[{shape}] y) <float one = {{1}}, float nought = {{0}}> {{ {body} }}"


def check(body: str, shape: str = "6,3") -> list[str] | None:
    """The operators afterwards, None if nothing changed."""
    pads = {name: np.array(amounts) for name, amounts in PADS.items()}
    model = parse(text(body, shape), initializers=pads)
    changed = check_pass(JoinParts(), model, FEEDS)
    return operators(model) if changed else None


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad (a, first)  q = Pad (b, second)  r = Pad (c, third)  s = Add (p, q)  y = Add (s, r)",
        "p = Pad (a, third)  q = Pad (b, first)  r = Pad (c, second, nought)  s = Add (p, q)  y = Add (r, s)",
    ],
)
def test_parts_are_joined_in_any_order(body: str) -> None:
    assert check(body) == ["Concat"]


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad (a, first)  q = Pad (b, second)  y = Add (p, q)",
        "p = Pad (a, first)  q = Pad (b, first)  r = Pad (c, third)  s = Add (p, q)  y = Add (s, r)",
        "p = Pad (a, first)  q = Pad (b, second)  r = Pad (c, third, one)  s = Add (p, q)  y = Add (s, r)",
        "p = Pad (a, first)  q = Pad (b, second)  r = Pad (c, third)  s = Add (p, q)  t = Add (s, r)  y = Add (t, s)",
        "p = Pad (a, first)  q = Pad (b, second)  s = Add (p, q)  y = Add (s, z)",
        'p = Pad <mode = "edge"> (a, first)  q = Pad (b, second)  r = Pad (c, third)  s = Add (p, q)  y = Add (s, r)',
    ],
)
def test_what_does_not_fill_the_sum_or_is_no_part_stays(body: str) -> None:
    assert check(body) is None


def test_parts_along_different_axes_stay() -> None:
    assert check("p = Pad (z, left)  q = Pad (a, below)  y = Add (p, q)", "6,6") is None


def test_the_gradient_of_slices_is_one_concat() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[2,6] x) => (float[2,3] y)
        <int64[1] i0 = {0}, int64[1] i2 = {2}, int64[1] i4 = {4}, int64[1] i6 = {6}> {
            p = Slice (w, i0, i2)  q = Slice (w, i2, i4)  r = Slice (w, i4, i6)
            gates = Concat <axis = 0> (r, p, q)
            y = MatMul (x, gates)
        }"""
    )
    w = np.zeros((6, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    program = onnxgrad.compile(model, wrt=["w"])
    assert "Pad" not in operators(program.model)
    x, dy = np.arange(12, dtype=np.float32).reshape(2, 6), FEEDS["b"]
    by_gate = x.T @ dy
    expected = np.concatenate([by_gate[2:], by_gate[:2]])
    np.testing.assert_allclose(program.session().grad({"x": x}, {"y": dy})["w"], expected)
