"""Sequences and optionals of known elements become tensors."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.eliminate_dead_code import EliminateDeadCode
from onnxgrad.passes.unroll_sequences import UnrollSequences

from .running import operators, parse, run

X, Z = np.arange(24, dtype=np.float32).reshape(6, 4), np.ones((2, 4), np.float32)


def unrolled(graph: str) -> list[str]:
    """The operators that are left, after checking that the values are the same."""
    model = parse(graph)
    feeds = {"x": X, "z": Z} if "float[2,4] z" in graph else {"x": X}
    expected = run(model, feeds)
    UnrollSequences().call(model)
    EliminateDeadCode().call(model)
    for name, array in run(model, feeds).items():
        np.testing.assert_array_equal(array, expected[name])
    return operators(model)


def test_elements_that_are_put_in_and_taken_out() -> None:
    assert unrolled("""g (float[6,4] x, float[2,4] z) => (float[2,4] y, int64 n)
    <int64 last = {-1}, int64 first = {0}> {
        e = Neg (z)
        s = SequenceConstruct (z, z)
        t = SequenceInsert (s, e)
        u = SequenceErase (t, first)
        v = SequenceInsert (u, z, first)
        i = Identity (v)
        y = SequenceAt (i, last)
        n = SequenceLength (i)
    }""") == ["Neg", "Identity"]


@pytest.mark.parametrize(
    ("split", "axis", "rank", "expected"),
    [
        ("<axis = -2> (x, two)", -1, "a,b", ["Split", "Concat"]),
        ("<axis = 0> (x, four)", 0, "a,b", ["Split", "Concat"]),
        ("<axis = 0> (x, parts)", 0, "a,b", ["Split", "Concat"]),
        ("<axis = 0> (x)", -1, "a,b", ["Split", "Concat"]),
        ("<axis = 0, keepdims = 0> (x)", 0, "a", ["Split", *["Squeeze"] * 6, "Concat"]),
    ],
)
def test_parts_of_a_tensor(split: str, axis: int, rank: str, expected: list[str]) -> None:
    graph = f"""g (float[6,4] x) => (float[{rank}] y)
    <int64 two = {{2}}, int64 four = {{4}}, int64[3] parts = {{3, 1, 2}}> {{
        s = SplitToSequence {split}
        y = ConcatFromSequence <axis = {axis}> (s)
    }}"""
    assert sorted(unrolled(graph)) == sorted(expected)


def test_a_new_axis() -> None:
    assert unrolled("""g (float[6,4] x) => (float[a,b,c] y) <int64 two = {2}> {
        s = SplitToSequence <axis = 0> (x, two)
        y = ConcatFromSequence <axis = -1, new_axis = 1> (s)
    }""") == ["Split", "Unsqueeze", "Unsqueeze", "Unsqueeze", "Concat"]


def test_what_is_mapped_over_a_sequence_is_written_out() -> None:
    assert unrolled("""g (float[6,4] x, float[2,4] z) => (float[6,4] y, float[6,4] w) <int64 two = {2}> {
        s = SplitToSequence <axis = 0> (x, two)
        t, u = SequenceMap (s, z) <body = b (float[2,4] p, float[2,4] q) => (float[2,4] r, float[2,4] v) {
            m = Mul (p, z)
            r = Add (m, q)
            v = Sin (m)
        }>
        y = ConcatFromSequence <axis = 0> (t)
        w = ConcatFromSequence <axis = 0> (u)
    }""") == ["Split", *["Mul", "Add", "Sin"] * 3, "Concat", "Concat"]


def test_optionals_that_are_there() -> None:
    assert sorted(
        unrolled("""g (float[6,4] x) => (float[6,4] y, bool has, bool plain) {
        o = Optional (x)
        e = OptionalGetElement (o)
        has = OptionalHasElement (o)
        plain = OptionalHasElement (x)
        f = OptionalGetElement (e)
        y = Neg (f)
    }""")
    ) == ["Identity", "Identity", "Neg"]


def test_sequences_in_branches() -> None:
    assert unrolled("""g (float[6,4] x) => (float[6,4] y) <int64 zero = {0}, bool c = {1}> {
        s = SequenceConstruct (x, x)
        y = If (c) <then_branch = t () => (float[6,4] a) { n = Neg (x) i = SequenceConstruct (n)
                    a = SequenceAt (i, zero) },
                    else_branch = e () => (float[6,4] b) { b = Abs (x) }>
    }""") == ["If"]


def test_what_the_data_decide_stays() -> None:
    assert unrolled("""g (float[6,4] x) => (float[a,4] y) <int64 two = {2}, int64[1] zero = {0}> {
        s = SplitToSequence <axis = 0> (x, two)
        m = ReduceMin <keepdims = 0> (x)
        i = Cast <to = 7> (m)
        y = SequenceAt (s, i)
    }""") == ["SplitToSequence", "ReduceMin", "Cast", "SequenceAt"]


def test_what_must_stay_stays_and_reads_the_element() -> None:
    graph = """g (float[6,4] x, float[2,4] z) => (float[2,4] y, float[6,4] d) <int64 first = {0}> {
        s = SequenceConstruct (z)
        t = SequenceAt (s, first)
        o = Optional (x)
        d = OptionalGetElement (o)
        y = Neg (t)
    }"""
    model = parse(graph)
    UnrollSequences(["t", "d"]).call(model)
    EliminateDeadCode(["t", "d"]).call(model)
    assert operators(model) == ["Identity", "Identity", "Neg"]
    assert {value.name for node in model.graph for value in node.outputs} == {"t", "d", "y"}
    found = run(model, {"x": X, "z": Z})
    np.testing.assert_array_equal(found["y"], -Z)
    np.testing.assert_array_equal(found["d"], X)


def test_elements_of_a_map_have_sizes_of_their_own() -> None:
    """Both are [N] in its body; ONNX Runtime reuses memory of what has one name for another of that name."""
    graph = """g (float[a] x, float[b] z) => (float[a] y, float[b] u) <int64 first = {0}, int64 second = {1}> {
        s = SequenceConstruct (x, z)
        t = SequenceMap (s) <body = body (float[N] e) => (float[N] f) { n = Neg (e) f = Exp (n) }>
        y = SequenceAt (t, first)
        u = SequenceAt (t, second)
    }"""
    model = parse(graph)
    UnrollSequences().call(model)
    EliminateDeadCode().call(model)
    assert "[N]" not in str(model.graph)
