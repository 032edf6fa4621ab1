"""Which integer inputs index an axis, and how large it is."""

from __future__ import annotations

import pytest

from onnxgrad.passes.index_bounds import find_index_bounds

from .running import parse

GRAPHS: dict[str, tuple[str, dict[str, int]]] = {
    "tokens": ("(float[7, 3] w, int64[N] i) => (float[N, 3] y) { y = Gather (w, i) }", {"i": 7}),
    "the axis counts": ("(float[7, 3] w, int32[2] i) => (float[7, 2] y) { y = Gather <axis = -1> (w, i) }", {"i": 3}),
    "through shapes and casts": (
        """(float[7, 3] w, int32[N, 2] i) => (float[M, 3] y) <int64[1] flat = {-1}> {
            moved = Reshape (i, flat)
            long = Cast <to = 7> (moved)
            y = Gather (w, long)
        }""",
        {"i": 7},
    ),
    "labels, some of which are replaced": (
        """(float[N, 5] x, int64[N] labels) => (float y) <int64 ignored = {-1}, int64 zero = {0}> {
            negative = Less (labels, zero)
            target = Where (negative, ignored, labels)
            y = SoftmaxCrossEntropyLoss <ignore_index = -1> (x, target)
        }""",
        {"labels": 5},
    ),
    "the smaller of two axes": (
        """(float[7, 3] w, float[4, 3] v, int64[N] i) => (float[N, 3] y) {
            a = Gather (w, i)
            b = Gather (v, i)
            y = Add (a, b)
        }""",
        {"i": 4},
    ),
    "a mask is no index": (
        """(float[2, 3] x, int64[2, 3] mask) => (float[2, 3] y) {
            float_mask = Cast <to = 1> (mask)
            y = Mul (x, float_mask)
        }""",
        {},
    ),
    "what is gathered is no index": ("(int64[7] x, int64[2] i) => (int64[2] y) { y = Gather (x, i) }", {"i": 7}),
    "an axis of unknown size": ("(float[V, 3] w, int64[2] i) => (float[2, 3] y) { y = Gather (w, i) }", {}),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_bounds(case: str) -> None:
    graph, expected = GRAPHS[case]
    assert find_index_bounds(parse(f"g {graph}").graph) == expected
