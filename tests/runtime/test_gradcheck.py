"""Gradients against finite differences: right ones pass, wrong ones are found, and the worst element is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxgrad
from onnxgrad.passes.registry import Cotangent, Primal, Registry
from onnxgrad.passes.tape import Tensor
from onnxgrad.runtime.exact_forward import ExactForward
from tests.backend.precision import in_precision
from tests.compiler.forward_models import mlp, parse, random, torch_mlp

INPUTS = {"x": random(3, 4), "labels": np.arange(3)}


def wrong_tanh(factor: float) -> Registry:
    """The rules with one that is off by *factor*."""
    rules = Registry(onnxgrad.BUILTIN_RULES)

    @rules.vjp("Tanh")
    def tanh(n: Primal, dy: Tensor) -> Cotangent:
        y = n.outputs[0]
        return lambda: dy * (1.0 - y * y) * factor

    return rules


@pytest.mark.parametrize("batch", [3, "batch"])
@pytest.mark.parametrize("fast", [False, True])
def test_right_gradients_pass(batch: int | str, fast: bool) -> None:
    report = onnxgrad.gradcheck(mlp(batch), INPUTS, loss="cross_entropy", wrt=["fc*", "x"], fast_mode=fast)
    assert report
    checks = {check.name: check for check in report.checks}
    assert checks.keys() == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "x"}
    assert {check.precision for check in report.checks} == {"float32" if fast else "float64"}
    assert checks["fc1.weight"].elements == (0 if fast else 20)
    assert all((check.worst.index is None) == fast for check in report.checks)
    assert all(check.worst.relative < (1e-2 if fast else 1e-5) for check in report.checks)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("factor", [1.1, -1.0, 0.0, 1e3])
def test_a_wrong_rule_is_found(factor: float, fast: bool) -> None:
    rules = wrong_tanh(factor)
    report = onnxgrad.gradcheck(mlp(), INPUTS, loss="cross_entropy", rules=rules, fast_mode=fast, raise_exception=False)
    assert not report
    assert [check.name for check in report.wrong] == ["fc1.weight", "fc1.bias"]
    for check in report.wrong:
        assert check.worst.analytic == pytest.approx(factor * check.worst.numerical, rel=1e-2, abs=1e-3)
    with pytest.raises(onnxgrad.GradcheckError, match=r"2 of 4 gradients disagree .*\n  - 'fc1.weight' a"):
        onnxgrad.gradcheck(mlp(), INPUTS, loss="cross_entropy", rules=rules, fast_mode=fast)


def corrupted(index: tuple[int, int]) -> onnxgrad.Program:
    """An MLP whose gradient of fc2.weight is off in one element."""
    program = onnxgrad.compile(mlp(), loss="cross_entropy")
    graph = program.model.graph
    (gradient,) = [value for value in graph.outputs if value.name == "fc2.weight.grad"]
    spike = np.zeros((3, 5), np.float32)
    spike[index] = 0.5
    constant = ir.Value(name="spike", const_value=ir.tensor(spike, name="spike"))
    graph.register_initializer(constant)
    gradient.name = "fc2.weight.grad.before"
    node = ir.node("Add", [gradient, constant], name="spoiled")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "fc2.weight.grad", gradient.type, gradient.shape
    graph.append(node)
    graph.outputs[[value.name for value in graph.outputs].index(gradient.name)] = node.outputs[0]
    return program


@pytest.mark.parametrize("index", [(0, 0), (2, 1)])
def test_the_worst_element_is_named(index: tuple[int, int]) -> None:
    program = corrupted(index)
    (wrong,) = onnxgrad.gradcheck(program, INPUTS, raise_exception=False).wrong
    assert (wrong.name, wrong.worst.index) == ("fc2.weight", index)
    assert wrong.worst.analytic - wrong.worst.numerical == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(onnxgrad.GradcheckError, match=rf"'fc2.weight' at \[{index[0]}, {index[1]}\]: analytic"):
        onnxgrad.gradcheck(program, INPUTS)
    sampled = onnxgrad.gradcheck(program, INPUTS, max_elements=2, raise_exception=False)
    assert [check.name for check in sampled.wrong] == ["fc2.weight"]
    assert {check.elements for check in sampled.checks} == {2}


def test_the_tolerances_are_the_callers() -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", rules=wrong_tanh(1.01))
    assert not onnxgrad.gradcheck(program, INPUTS, raise_exception=False)
    assert onnxgrad.gradcheck(program, INPUTS, rtol=0.02)
    assert onnxgrad.gradcheck(program, INPUTS, atol=0.1)
    assert not onnxgrad.gradcheck(program, INPUTS, atol=0.0, rtol=0.0, eps=1e-3, raise_exception=False)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions(dtype: type) -> None:
    inputs = INPUTS | {"x": INPUTS["x"].astype(dtype)}
    model = in_precision(mlp(), dtype)
    assert onnxgrad.gradcheck(model, inputs, loss="cross_entropy")
    report = onnxgrad.gradcheck(model, inputs, loss="cross_entropy", rules=wrong_tanh(1.5), raise_exception=False)
    assert [check.name for check in report.wrong] == ["fc1.weight", "fc1.bias"]


def test_seeds_of_the_caller() -> None:
    x, seed = random(2, 4), random(2, 3, seed=5)
    assert onnxgrad.gradcheck(mlp(), {"x": x}, {"logits": seed}, wrt="inputs")
    logits, tensors = torch_mlp(x)
    logits.backward(torch.tensor(seed))
    (check,) = onnxgrad.gradcheck(mlp(), {"x": x}, {"logits": seed}, wrt="inputs").checks
    assert tensors["x"].grad is not None
    assert check.worst.index is not None
    assert check.worst.numerical == pytest.approx(float(tensors["x"].grad[check.worst.index]), rel=1e-4)


SMOOTH = """g (float[N, 4] x) => (float[N, 4] y) {
    s = Mul (x, w) e = Erf (s) z = Gelu (s) t = Add (e, z) y = Mul (t, x)
}"""


def test_erf_and_gelu_are_exact_in_float64() -> None:
    """onnx's evaluator rounds both to float32, which a step of 1e-6 would show."""
    x, w = random(2, 4), random(4)
    program = onnxgrad.compile(parse(SMOOTH, {"w": w}))
    computed = ExactForward(program).run({"x": x, "w": w})["y"]
    s = torch.tensor(x.astype(np.float64)) * torch.tensor(w.astype(np.float64))
    expected = (torch.erf(s) + torch.nn.functional.gelu(s)) * torch.tensor(x.astype(np.float64))
    np.testing.assert_allclose(computed, expected.numpy(), rtol=1e-13)
    report = onnxgrad.gradcheck(program, {"x": x}, eps=1e-6)
    assert {check.precision for check in report.checks} == {"float64"}


def test_the_runtime_takes_the_differences_where_the_evaluator_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    true = ExactForward.run

    def off(self: ExactForward, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array * 1.1 for name, array in true(self, feeds).items()}

    monkeypatch.setattr(ExactForward, "run", off)
    report = onnxgrad.gradcheck(mlp(), INPUTS, loss="cross_entropy")
    assert {check.precision for check in report.checks} == {"float32"}
    assert not onnxgrad.gradcheck(mlp(), INPUTS, loss="cross_entropy", rules=wrong_tanh(1.2), raise_exception=False)


def test_parameters_are_as_before() -> None:
    """Each moves in a session of the check's own; the program's values and the user's arrays stay."""
    program, inputs = onnxgrad.compile(mlp(), loss="cross_entropy"), {k: v.copy() for k, v in INPUTS.items()}
    before = {name: array.copy() for name, array in program.parameters.items()}
    onnxgrad.gradcheck(program, inputs)
    for name, array in program.parameters.items():
        np.testing.assert_array_equal(array, before[name])
    np.testing.assert_array_equal(inputs["x"], INPUTS["x"])


@pytest.mark.parametrize("mode", ["grad", "accumulate"])
def test_second_derivatives(mode: str) -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", mode=mode)
    report = onnxgrad.gradgradcheck(program, INPUTS)
    assert [check.name for check in report.checks][-1] == "loss.grad_output"
    assert all(check.norm > 0 for check in report.checks)
    assert onnxgrad.gradgradcheck(mlp(), {"x": random(2, 4)}, wrt="inputs", fast_mode=True)


def test_a_wrong_second_derivative_is_found() -> None:
    """A rule that is right itself, but emits an operator whose derivative is zero."""
    graph = "g (float[N, 3] x) => (float[N, 3] y) { p = Mul (x, w) y = Sin (p) }"
    model, inputs = parse(graph, {"w": random(3)}), {"x": random(2, 3)}
    assert onnxgrad.gradgradcheck(onnxgrad.compile(model), inputs)
    cut = Registry(onnxgrad.BUILTIN_RULES)

    @cut.vjp("Sin")
    def cut_sin(n: Primal, dy: Tensor) -> Cotangent:
        # Rounding to 1e-4 is within what is allowed.
        return lambda: dy * n.op.Floor(n.op.Cos(n.required(0)) * 1e5) * 1e-5

    rounded = onnxgrad.compile(model, rules=cut)
    assert onnxgrad.gradcheck(rounded, inputs)
    with pytest.raises(onnxgrad.GradcheckError, match="disagree with finite differences"):
        onnxgrad.gradgradcheck(rounded, inputs, eps=1e-3)


def test_a_path(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    onnxgrad.compile(mlp(), loss="cross_entropy").save(tmp_path / "m.train.onnx")
    assert onnxgrad.gradcheck(tmp_path / "m.onnx", INPUTS, loss="cross_entropy")
    assert onnxgrad.gradcheck(tmp_path / "m.train.onnx", INPUTS)


def test_what_is_refused() -> None:
    program = onnxgrad.compile(mlp(), wrt="hidden")
    with pytest.raises(onnxgrad.InputError, match="'hidden' is an intermediate value"):
        onnxgrad.gradcheck(program, {"x": random(2, 4)})
    with pytest.raises(onnxgrad.InputError, match="loss: a program is compiled already"):
        onnxgrad.gradcheck(program, {"x": random(2, 4)}, loss="mse")
    with pytest.raises(onnxgrad.InputError, match="max_elements is at least 1"):
        onnxgrad.gradcheck(program, {"x": random(2, 4)}, max_elements=0)
    noisy = parse(
        "g (float[N, 3] x) => (float[N, 3] y) { p = Mul (x, w) r = RandomNormalLike (p) y = Add (p, r) }",
        {"w": random(3)},
    )
    with pytest.raises(onnxgrad.InputError, match="Output 'y' differs from run to run"):
        onnxgrad.gradcheck(noisy, {"x": random(2, 3)})
