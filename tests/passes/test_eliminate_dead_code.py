"""EliminateDeadCode: what no output needs goes, and nothing else."""

from __future__ import annotations

import numpy as np

from onnxgrad.passes.eliminate_dead_code import EliminateDeadCode

from .running import check_pass, only, operators, parse

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_chains_and_their_initializers_go() -> None:
    w = np.ones((4, 4), np.float32)
    model = parse(
        "g (float[3,4] x) => (float[3,4] y) { a = MatMul (x, w)  b = Exp (a)  y = Neg (x) }", initializers={"w": w}
    )
    assert check_pass(EliminateDeadCode(), model, {"x": X})
    assert operators(model) == ["Neg"]
    assert not model.graph.initializers


def test_inputs_outputs_and_protected_values_stay() -> None:
    w = np.ones(4, np.float32)
    model = parse(
        "g (float[3,4] x, float[4] unused) => (float[3,4] y) { a = Exp (x)  y = Neg (x) }",
        initializers={"v": w, "w": w},
    )
    assert check_pass(EliminateDeadCode(protected=["a", "w"]), model, {"x": X, "unused": w})
    assert operators(model) == ["Exp", "Neg"]
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]
    assert list(model.graph.initializers) == ["w"]


def test_initializers_that_are_inputs_or_outputs_stay() -> None:
    model = parse("g (float[3,4] x, float[4] v) => (float[3,4] y, float[4] w) <float[4] w = {1,2,3,4}> { y = Neg (x) }")
    assert not check_pass(EliminateDeadCode(), model, {"x": X, "v": X[0]})


def test_unused_optional_outputs_are_dropped() -> None:
    model = parse(
        """g (float[1,1,4,4] x) => (float[1,1,2,2] y, float[1,1,2,2] z) {
            y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            z, mask = Dropout (y)
        }"""
    )
    assert check_pass(EliminateDeadCode(), model, {"x": np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)})
    assert [len(node.outputs) for node in model.graph] == [1, 1]


def test_needed_and_required_outputs_stay() -> None:
    model = parse(
        """g (float[3,4] x) => (int64[3,2] i, float[3,2] left, float[3,4] y, float[3,1] inv)
        <int64[1] k = {2}, float[4] s = {1, 1, 1, 1}> {
            v, i = TopK (x, k)
            left, right = Split <axis = 1, num_outputs = 2> (x)
            y, mean, inv = LayerNormalization (x, s)
        }"""
    )
    assert not check_pass(EliminateDeadCode(), model, {"x": X})


def test_batch_normalization_in_training_mode_stays_in_training_mode() -> None:
    v = np.array([0.5, 1, 2, 4], np.float32)
    model = parse(
        """g (float[3,4] x) => (float[3,4] y) {
            y, m, v = BatchNormalization <training_mode = 1> (x, scale, bias, mean, var)
        }""",
        initializers={"scale": v, "bias": v, "mean": v, "var": v},
    )
    assert not check_pass(EliminateDeadCode(), model, {"x": X})
    assert only(model, "BatchNormalization").attributes["training_mode"].as_int() == 1


def test_dead_control_flow_lets_go_of_what_it_captured() -> None:
    model = parse(
        """g (bool c, float[3,4] x) => (float[3,4] z) <float w = {3}> {
            h = Exp (x)
            y = If (c) <
                then_branch = t () => (float[3,4] a) { a = Mul (h, w) },
                else_branch = e () => (float[3,4] b) { b = Neg (h) }
            >
            z = Neg (x)
        }"""
    )
    assert check_pass(EliminateDeadCode(), model, {"x": X, "c": np.array(True)})
    assert operators(model) == ["Neg"]
    assert not model.graph.initializers


def test_dead_nodes_in_subgraphs_go_and_live_ones_keep_what_they_capture() -> None:
    model = parse(
        """g (bool c, float[3,4] x) => (float[3,4] y) {
            h = Exp (x)  dead = Sin (x)
            y = If (c) <
                then_branch = t () => (float[3,4] a) { u = Cos (dead)  a = Abs (h) },
                else_branch = e () => (float[3,4] b) { b = Neg (h) }
            >
        }"""
    )
    assert check_pass(EliminateDeadCode(), model, {"x": X, "c": np.array(True)})
    assert sorted(node.op_type for node in model.graph.all_nodes()) == ["Abs", "Exp", "If", "Neg"]


LOOPS = """g (float[3,4] x, int64 count, bool yes) => (float[4] sum, float[3,4] backwards, float[k,4] powers)
<float[4] zero = {0, 0, 0, 0}> {
    sum, unread, backwards = Scan <num_scan_inputs = 1, scan_output_directions = [0, 1], body = step
        (float[4] before, float[4] row) => (float[4] after, float[4] root, float[4] kept) {
            after = Add (before, row)
            root = Sqrt (row)
            kept = Identity (before)
        }> (zero, x)
    final, gone, powers = Loop (count, yes, sum) <body = power
        (int64 i, bool c, float[4] p) => (bool co, float[4] q, float[4] sine, float[4] each) {
            co = Identity (c)
            q = Mul (p, sum)
            sine = Sin (p)
            each = Identity (q)
        }>
}"""


def test_stacks_that_nobody_reads_are_not_made() -> None:
    model = parse(LOOPS)
    feeds = {"x": X, "count": np.array(2), "yes": np.array(True)}
    assert check_pass(EliminateDeadCode(), model, feeds)
    assert [len(node.outputs) for node in model.graph] == [2, 2]
    inner = [node.op_type for node in model.graph.all_nodes()]
    assert "Sqrt" not in inner
    assert "Sin" not in inner
    assert not check_pass(EliminateDeadCode(), model, feeds)


def test_protected_stacks_stay() -> None:
    model = parse(LOOPS)
    check_pass(EliminateDeadCode(protected=["unread"]), model, {"x": X, "count": np.array(2), "yes": np.array(True)})
    assert [len(node.outputs) for node in model.graph] == [3, 2]
