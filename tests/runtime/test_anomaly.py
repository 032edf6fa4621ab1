"""The node that makes a NaN or an infinity is named, and what is legitimate raises no alarm."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

import onnxgrad
from onnxgrad.runtime.anomaly import find_anomaly
from tests.backend.precision import in_precision
from tests.compiler.forward_models import mlp, parse, random

SQRT = """g (float[N, 3] x) => (float[N, 3] y) {
    [scale] p = Mul (x, w)
    [square] q = Mul (p, p)
    [root] r = Sqrt (q)
    [last] y = Tanh (r)
}"""


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("mode", ["grad", "accumulate"])
def test_the_backward_node_is_named_with_its_rule(mode: str, dtype: type) -> None:
    """The slope of a root at 0 is infinite, and 0 · ∞ after it is NaN; PyTorch does the same."""
    model = in_precision(parse(SQRT, {"w": random(3)}), dtype)
    session = onnxgrad.compile(model, mode=mode).session()
    x = np.ones((2, 3), dtype)
    seeds = {"y": np.ones((2, 3), dtype)}
    call = session.backward if mode == "accumulate" else session.grad
    with session.detect_anomaly():
        call({"x": x}, seeds)
        x[1, 2] = 0
        with pytest.raises(onnxgrad.AnomalyError) as caught:
            call({"x": x}, seeds)
    lines = str(caught.value).splitlines()
    assert lines[0] == "'w.grad' has NaN. The first node that makes one from inputs without is"
    assert "by the rule of Mul for the forward node 'square'" in lines[1]
    assert any(f"{np.dtype(dtype).name}[2, 3]: " in line and "1 of 6 Inf" in line for line in lines if "reads" in line)
    assert any("1 of 6 NaN" in line for line in lines if "makes" in line)
    assert any("the infinities in" in line and "root.grad" in line for line in lines)
    call({"x": x}, seeds)  # outside nothing is looked at


def test_the_forward_node_is_named() -> None:
    session = onnxgrad.compile(
        parse(
            "g (float[N, 3] x) => (float[N, 3] y) { [a] p = Mul (x, w) [b] q = Log (p) [c] y = Tanh (q) }",
            {"w": -np.ones(3, np.float32)},
        )
    ).session()
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError) as caught:
        session.run({"x": np.array([[1, 2, -3]], np.float32)})
    message = str(caught.value)
    assert "'y' has NaN" in message
    assert "Log node 'b', of the forward part\n  reads 'p' float32[1, 3]: min -2, max 3, mean 0" in message
    assert "makes 'q' float32[1, 3]: min 1.099, max 1.099, mean 1.099; 2 of 3 NaN" in message


def test_an_overflow() -> None:
    graph = (
        "g (float[N, 3] x) => (float[N] y) { p = Mul (x, w) [grow] q = Exp (p) y = ReduceSum <keepdims = 0> (q, axis) }"
    )
    model = parse(graph, {"w": np.full(3, 100, np.float32), "axis": np.array([1])})
    session = onnxgrad.compile(model, wrt=["w"], loss="mse").session()
    feeds = {"x": np.ones((2, 3), np.float32), "labels": np.zeros(2, np.float32)}
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError, match=r"'loss' has Inf.*\n.*Exp node 'grow'"):
        session.grad(feeds)


@pytest.mark.parametrize("name", ["x", "fc1.weight"])
def test_what_was_fed_is_blamed(name: str) -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    x = random(3, 4)
    if name == "x":
        x[0, 0] = np.nan
    else:
        session.parameters[name][0, 0] = np.nan
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError) as caught:
        session.grad({"x": x, "labels": np.arange(3)})
    assert f"'logits' has NaN, and so has {name!r}, on which it depends" in str(caught.value)


MASKED = """g (float[N, 4] x, float[N, 4] mask) => (float[N, 4] y) {
    s = Mul (x, w)
    [mask] m = Add (s, mask)
    [attend] y = Softmax (m)
}"""


def test_a_mask_is_no_anomaly_but_a_row_without_any_is() -> None:
    session = onnxgrad.compile(parse(MASKED, {"w": random(4)})).session()
    mask = np.where(np.tri(3, 4) > 0, 0, -np.inf).astype(np.float32)
    feeds, seeds = {"x": random(3, 4), "mask": mask}, {"y": random(3, 4)}
    with session.detect_anomaly():
        assert np.isfinite(session.grad(feeds, seeds)["w"]).all()
        mask[1] = -np.inf
        with pytest.raises(onnxgrad.AnomalyError) as caught:
            session.grad(feeds, seeds)
    message = str(caught.value)
    assert "Softmax node 'attend', of the forward part" in message
    assert "the infinities in 'm' come from 'mask'" in message


def test_a_branch_that_is_not_picked_is_no_anomaly() -> None:
    graph = """g (float[N, 3] x) => (float[N, 3] y) {
        p = Mul (x, w) l = Log (p) positive = Greater (p, zero) y = Where (positive, l, p)
    }"""
    session = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32), "zero": np.float32(0)})).session()
    with session.detect_anomaly():
        gradient = session.grad({"x": np.array([[1, -2, 0]], np.float32)}, {"y": np.ones((1, 3), np.float32)})
    assert np.isfinite(gradient["w"]).all()


def test_a_loop_is_named() -> None:
    graph = """g (float[T, 3] x) => (float[3] y) {
        zero = Constant <value = float[3] {0, 0, 0}> ()
        [steps] y = Scan <num_scan_inputs = 1, body = b (float[3] h, float[3] e) => (float[3] next) {
            s = Mul (e, w) [log] l = Log (s) next = Add (h, l)
        }> (zero, x)
    }"""
    session = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32)})).session()
    x = np.ones((4, 3), np.float32)
    x[2, 1] = -1
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError) as caught:
        session.grad({"x": x}, {"y": np.ones(3, np.float32)})
    assert "Scan node 'steps', of the forward part" in str(caught.value)
    assert "inside it: Log node 'log', first in iteration 2 (counted from 0)" in str(caught.value)


@pytest.mark.parametrize("positive", [True, False])
def test_a_branch_is_named(positive: bool) -> None:
    graph = """g (float[3] x, bool positive) => (float[3] y) {
        p = Mul (x, w)
        [choice] y = If (positive) <
            then_branch = a () => (float[3] t) { [log] t = Log (p) },
            else_branch = b () => (float[3] f) { n = Neg (p) [root] f = Sqrt (n) }
        >
    }"""
    session = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32)})).session()
    x = np.array([1, -1, 2], np.float32)
    inner = "Log node 'log'" if positive else "Sqrt node 'root'"
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError, match=rf"'choice'.*\n  inside it: {inner}\n"):
        session.run({"x": x, "positive": np.array(positive)})


def test_gradients_of_before_the_call() -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate").session()
    session.grads["fc1.bias"][0] = np.nan
    feeds = {"x": random(3, 4), "labels": np.arange(3)}
    with session.detect_anomaly():
        with pytest.raises(onnxgrad.AnomalyError, match=r"zero_grad\(\) clears it"):
            session.backward(feeds)
        session.zero_grad()
        session.backward(feeds)


def test_loops_in_a_branch_are_named_down_to_the_node() -> None:
    """The inner loop runs another number of times in each iteration of the outer, and at first not at all."""
    graph = """g (float[T, 3] x, bool looped) => (float[3] y) {
        zero = Constant <value = float[3] {0, 0, 0}> ()
        one = Constant <value_int = 1> ()
        start = Constant <value_int = 0> ()
        [choice] y = If (looped) <
            then_branch = a () => (float[3] t) {
                [outer] n, t = Scan <num_scan_inputs = 1, body = b (int64 i, float[3] h, float[3] e)
                        => (int64 j, float[3] next) {
                    j = Add (i, one)
                    none = Constant <value = bool {1}> ()
                    hidden = Sub (zero, one_float)
                    logs = Log (hidden)
                    never = Greater (zero, one_float)
                    kept = Where (never, logs, e)
                    [inner] s = Loop (i, none, kept) <body = c (int64 k, bool going, float[3] v)
                            => (bool on, float[3] w_next) {
                        on = Identity (going)
                        l = Sub (v, w)
                        [root] w_next = Sqrt (l)
                    }>
                    next = Add (h, s)
                }> (start, zero, x)
            },
            else_branch = d () => (float[3] f) { f = Neg (w) }
        >
    }"""
    model = ir.from_proto(parse(graph, {"w": np.array([0, 0, 1.05], np.float32), "one_float": np.float32(1)}))
    ShapeInferencePass()(model)
    feeds = {"x": np.full((5, 3), 2, np.float32), "looped": np.array(True)}
    anomaly = find_anomaly(model, feeds, ["y"], ["CPUExecutionProvider"])
    assert anomaly is not None
    lines = str(anomaly).splitlines()
    # 2 → √.95 → √(.97 - 1.05), so that the second round of the inner loop fails, which only the third of the outer has.
    assert lines[1:5] == [
        "  If node 'choice', of the forward part",
        "  inside it: Scan node 'outer'",
        "  inside it: Loop node 'inner', first in iteration 2 (counted from 0)",
        "  inside it: Sqrt node 'root', first in iteration 1 (counted from 0)",
    ]


def test_a_loop_in_a_loop_is_named_in_the_backward_part() -> None:
    """The slope of √h is infinite at 0, where h is at the start; the way back comes to that last."""
    graph = """g (float[T, 3] x) => (float[3] y) {
        zero = Constant <value = float[3] {0, 0, 0}> ()
        [outer] y = Scan <num_scan_inputs = 1, body = b (float[3] h, float[3] e) => (float[3] next) {
            count = Constant <value_int = 2> ()
            true = Constant <value = bool {1}> ()
            [inner] s = Loop (count, true, h) <body = c (int64 k, bool going, float[3] v) => (bool on, float[3] after) {
                on = Identity (going)
                m = Mul (v, w)
                [root] r = Sqrt (m)
                after = Add (r, w)
            }>
            next = Mul (s, e)
        }> (zero, x)
    }"""
    session = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32)})).session()
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError) as caught:
        session.grad({"x": np.ones((4, 3), np.float32)}, {"y": np.ones(3, np.float32)})
    lines = str(caught.value).splitlines()
    assert "by the rule of Scan for the forward node 'outer'" in lines[1]
    assert "by the rule of Loop for the forward node 'inner', first in iteration 3 (counted from 0)" in lines[2]
    assert "by the rule of Mul for the forward node 'm', first in iteration 1 (counted from 0)" in lines[3]
    assert lines[4] == "    the infinities in 'root.grad/Div' come from Div node 'root.grad/Div'"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("accumulates", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_a_pullback_names_the_backward_node(split: bool, accumulates: bool, dtype: type) -> None:
    model = in_precision(parse(SQRT, {"w": random(3)}), dtype)
    session = onnxgrad.compile(model, split=split).session()
    x, seeds = np.ones((2, 3), dtype), {"y": np.ones((2, 3), dtype)}
    x[1, 2] = 0
    outputs, pullback = session.vjp({"x": x})
    call = pullback.backward if accumulates else pullback
    assert np.isfinite(outputs["y"]).all()
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError) as caught:
        call(seeds)
    lines = str(caught.value).splitlines()
    assert lines[0] == "'w.grad' has NaN. The first node that makes one from inputs without is"
    assert "by the rule of Mul for the forward node 'square'" in lines[1]
    assert any(f"{np.dtype(dtype).name}[2, 3]: " in line and "1 of 6 Inf" in line for line in lines if "reads" in line)
    call(seeds)  # outside nothing is looked at


def test_a_pullback_names_the_forward_node() -> None:
    """e is infinite and a residual, its reciprocal a plain 0, as is the slope of that: 0 · ∞ is NaN."""
    graph = """g (float[N, 3] x) => (float[N, 3] y) {
        p = Mul (x, w) [grow] e = Exp (p) [turn] y = Reciprocal (e)
    }"""
    program = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32)}), split=True, residuals="fast")
    session = program.session()
    feeds, seeds = {"x": np.array([[1, 200, 3]], np.float32)}, {"y": np.ones((1, 3), np.float32)}
    assert "e" in program.residuals
    _, pullback = session.vjp(feeds)
    with session.detect_anomaly():
        with pytest.raises(onnxgrad.AnomalyError, match="the infinities in 'e' come from 'e'"):
            pullback(seeds)
        _, pullback = session.vjp(feeds)
        with pytest.raises(onnxgrad.AnomalyError) as caught:
            pullback(seeds)
    message = str(caught.value)
    assert "by the rule of Exp for the forward node 'grow'" in message
    assert "the infinities in 'e' come from Exp node 'grow'" in message


def test_a_residual_with_nan_is_traced_into_the_forward_part() -> None:
    """y has none of the logarithm of -2, which is a residual, and 0 · NaN is NaN."""
    graph = """g (float[N, 3] x) => (float[N, 1] y) {
        p = Mul (x, w) [log] l = Log (p) t = Tanh (l) c = Cos (t) y = Slice (c, start, end, axis)
    }"""
    bounds = {"start": np.array([0]), "end": np.array([1]), "axis": np.array([1])}
    model = parse(graph, {"w": np.ones(3, np.float32), **bounds})
    session = onnxgrad.compile(model, split=True, residuals="fast").session()
    feeds, seeds = {"x": np.array([[1, -2, 3]], np.float32)}, {"y": np.ones((1, 1), np.float32)}
    _, pullback = session.vjp(feeds)
    with session.detect_anomaly():
        with pytest.raises(onnxgrad.AnomalyError) as caught:
            pullback(seeds)
        message = str(caught.value)
        assert "'w.grad' has NaN, and so has 't', on which it depends:\n  't' float32[1, 3]: " in message
        assert "a residual, which Tanh node" in message
        assert "Call vjp within detect_anomaly() too" in message
        _, pullback = session.vjp(feeds)
        with pytest.raises(onnxgrad.AnomalyError) as caught:
            pullback(seeds)
    message = str(caught.value)
    assert "'w.grad' has NaN. The first node that makes one from inputs without is" in message
    assert "Log node 'log', of the forward part\n  reads 'p' float32[1, 3]: min -2, max 3" in message


def test_the_forward_part_of_a_pullback_is_looked_at() -> None:
    graph = "g (float[N, 3] x) => (float[N, 3] y) { [log] l = Log (x) y = Mul (l, w) }"
    session = onnxgrad.compile(parse(graph, {"w": np.ones(3, np.float32)})).session()
    with session.detect_anomaly(), pytest.raises(onnxgrad.AnomalyError, match="Log node 'log', of the forward part"):
        session.vjp({"x": -np.ones((1, 3), np.float32)})
