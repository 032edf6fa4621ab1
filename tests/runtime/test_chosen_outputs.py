"""Runs that give only some of the outputs: the same numbers, and no memory for what nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad
from onnxgrad.passes.peak_memory import estimate_peak
from tests.compiler.forward_models import mlp, parse, random

BATCH = {"x": random(6, 4), "labels": np.array([0, 2, 1, 1, 0, 2])}

TWO = (
    "g (float[N, 3] x, float[N, 3] y) => (float[N, 3] a, float[N, 3] b) { a = Mul (x, w) p = Mul (y, w) b = Sqrt (p) }"
)


@pytest.mark.parametrize(
    ("outputs", "given"), [("loss", ["loss"]), ([], []), (["loss", "logits"], ["logits", "loss"]), (None, None)]
)
def test_gradients_are_the_same_whatever_else_is_given(outputs: Any, given: list[str] | None) -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    expected, gradients = session.value_and_grad(BATCH)
    results, fresh = session.value_and_grad(BATCH, outputs=outputs)
    assert list(results) == (list(expected) if given is None else given)
    summed = session.backward(BATCH, outputs=outputs)
    for name, result in results.items():
        np.testing.assert_array_equal(result, expected[name])
        np.testing.assert_array_equal(summed[name], expected[name])
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(fresh[name], gradient)
        np.testing.assert_array_equal(session.grads[name], gradient)
        np.testing.assert_array_equal(session.grad(BATCH)[name], gradient)


def test_one_runtime_session_for_each_choice() -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    assert session.executor("grad", "loss") is session.executor("grad", ["loss"])
    assert session.executor("grad", ["loss", "logits"]) is session.executor("grad")
    assert session.executor("grad", []) is not session.executor("grad", "loss")


def test_inputs_that_only_another_output_needs() -> None:
    session = onnxgrad.compile(parse(TWO, {"w": random(3)}), outputs=["a"]).session()
    x, seed = random(2, 3), random(2, 3, seed=1)
    outputs, gradients = session.value_and_grad({"x": x}, {"a": seed}, outputs="a")
    assert list(outputs) == ["a"]
    np.testing.assert_allclose(gradients["w"], (seed * x).sum(0), rtol=1e-6)


def test_an_anomaly_in_what_is_asked_for() -> None:
    session = onnxgrad.compile(parse(TWO, {"w": random(3)}), outputs=["a"]).session()
    x, seed = random(2, 3), random(2, 3, seed=1)
    with session.detect_anomaly():
        session.value_and_grad({"x": x}, {"a": seed}, outputs="a")
        with pytest.raises(onnxgrad.AnomalyError, match="'a' has NaN"):
            session.value_and_grad({"x": x * np.float32(np.nan)}, {"a": seed}, outputs="a")


@pytest.mark.parametrize("call", ["value_and_grad", "backward"])
def test_an_output_that_does_not_exist(call: str) -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    with pytest.raises(onnxgrad.InputError, match="gives no 'losses'; it gives 'logits', 'loss'"):
        getattr(session, call)(BATCH, outputs=["losses"])


def test_scores_need_not_outlive_the_loss() -> None:
    classes, samples = 1000, 64
    graph = f"g (float[{samples}, 8] x) => (float[{samples}, {classes}] logits) {{ logits = MatMul (x, w) }}"
    program = onnxgrad.compile(parse(graph, {"w": random(8, classes)}), loss="cross_entropy")
    gradients = {port.name for port in program.signature.outputs_of("gradient")}
    both, alone = (estimate_peak(program.executable(outputs).graph).bytes for outputs in (None, {"loss", *gradients}))
    assert both - alone >= 0.9 * 4 * samples * classes
