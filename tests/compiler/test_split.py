"""Forward and backward as two models: the joint graph's gradients, by as few residuals as is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import onnxgrad
from onnxgrad.passes.memory_of_values import size_in_bytes
from tests.compiler.forward_models import mlp, parse, random, torch_gradients
from tests.transforms.modules import CASES, Case

X, SEED = random(2, 4, seed=9), random(2, 3, seed=8)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_strategy = pytest.mark.parametrize("residuals", ["min", "fast"])


def unoptimized() -> ort.SessionOptions:
    """What the runtime fuses depends on what is an output, and changes the rounding; without that, each node counts."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@every_case
@every_strategy
def test_the_pair_gives_the_joint_graphs_gradients_bit_for_bit(case: Case, residuals: str) -> None:
    program = onnxgrad.compile(case.exported)
    seed = {"y": torch.randn(case.module(case.sample()).shape, generator=torch.Generator().manual_seed(3)).numpy()}
    inputs = {"x": case.sample().numpy()}
    expected, gradients = program.session(options=unoptimized()).value_and_grad(inputs, seed)

    split = program.split(residuals)
    for session in (split.session(options=unoptimized()), split.session()):
        outputs, pullback = session.vjp(inputs)
        pulled = pullback(seed)
        assert pulled.keys() == gradients.keys()
        if session.options is not None:
            np.testing.assert_array_equal(outputs["y"], expected["y"])
        for name, gradient in gradients.items():
            if session.options is not None:
                np.testing.assert_array_equal(pulled[name], gradient)
            else:
                scale = np.linalg.norm(gradient) + 1e-6 * np.linalg.norm(seed["y"])
                assert np.linalg.norm(pulled[name] - gradient) < 1e-5 * scale


@every_case
def test_fewer_bytes_are_kept_than_by_running_nothing_twice(case: Case) -> None:
    program = onnxgrad.compile(case.exported)
    kept = {strategy: residual_bytes(program.split(strategy)) for strategy in ("min", "fast")}
    assert kept["min"] <= kept["fast"]
    repeated = [node.op_type for node in program.split("min").joint().model.graph]
    heavy = ("Gemm", "MatMul", "Conv", "Scan", "ConvTranspose")
    before = [node.op_type for node in program.model.graph]
    assert sorted(op for op in repeated if op in heavy) == sorted(op for op in before if op in heavy)
    assert len(program.split("fast").joint().model.graph) <= len(before) + free(before)


def free(operators: list[str]) -> int:
    """How many nodes there are that cost nothing to run again."""
    return sum(
        op in ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Mul", "Div", "Identity") for op in operators
    )


def residual_bytes(split: onnxgrad.SplitProgram) -> float:
    values = {value.name: value for value in split.backward.model.graph.inputs}
    return sum(size_in_bytes(values[name]) for name in split.residuals)


def test_min_keeps_the_narrowest_values() -> None:
    """A product's input that an elementwise function widens is computed again from what it is made of."""
    model = parse(
        """g (float[N, 4] x) => (float[N, 2] y) {
            a = MatMul (x, v) s = Sigmoid (a) c = Concat <axis = 1> (s, s, s) y = MatMul (c, w)
        }""",
        {"v": random(4, 3), "w": random(9, 2)},
    )
    split = onnxgrad.compile(model, split=True)
    assert list(split.residuals) == ["a"]
    assert list(onnxgrad.compile(model, split=True, residuals="fast").residuals) != ["a"]
    assert list(onnxgrad.compile(model, split=True, residuals=["s"]).residuals) == ["s"]


def test_a_change_of_basis_is_computed_again() -> None:
    """A product with a small constant matrix widens its input, as the tiles of a convolution are; it is no weight."""
    model = parse(
        "g (float[N, 4] x) => (float[N, 12] y) { a = MatMul (x, v) b = MatMul (a, basis) y = Mul (b, b) }",
        {"v": random(4, 3), "basis": random(3, 12)},
    )
    split = onnxgrad.compile(model, wrt=["v"], split=True)
    assert list(split.residuals) == ["a"]
    seed = {"y": random(2, 12)}
    _, pullback = split.session().vjp({"x": X})
    expected = onnxgrad.compile(model, wrt=["v"]).session().grad({"x": X}, seed)
    np.testing.assert_array_equal(pullback(seed)["v"], expected["v"])


def test_many_pullbacks_of_one_forward_run() -> None:
    session = onnxgrad.compile(mlp(), split=True).session()
    outputs, pullback = session.vjp({"x": X})
    seeds = [random(2, 3, seed=seed) for seed in range(3)]
    names = ["fc1.weight", "fc2.bias"]
    for seed in seeds:
        expected = torch_gradients(names, X, seed)
        pulled = pullback({"logits": seed})
        for name in names:
            np.testing.assert_allclose(pulled[name], expected[name], rtol=1e-5, atol=1e-6)
    for seed in seeds:
        pullback.backward({"logits": seed})
    total = torch_gradients(names, X, np.sum(seeds, axis=0))
    np.testing.assert_allclose(session.grads["fc1.weight"], total["fc1.weight"], rtol=1e-5, atol=1e-6)
    assert outputs["logits"].shape == (2, 3)


def test_a_joint_program_has_a_pullback_too() -> None:
    session = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    outputs, pullback = session.vjp({"x": X, "labels": np.array([0, 2])}, loss=True)
    value, expected = session.value_and_grad({"x": X, "labels": np.array([0, 2])})
    assert outputs["loss"] == pytest.approx(value["loss"])
    for name, gradient in pullback().items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-5, atol=1e-6)


def test_two_files_on_two_hosts(tmp_path: Path) -> None:
    forward, backward = tmp_path / "forward.onnx", tmp_path / "backward.onnx"
    onnxgrad.compile(mlp(), split=True).save(forward, backward)
    for path in (forward, backward):
        onnx.checker.check_model(str(path), full_check=True)
    names = [value.name for value in onnx.load(forward).graph.output]
    given = dict(zip(names, ort.InferenceSession(forward).run(names, {"x": X}), strict=True))
    second = ort.InferenceSession(backward)
    fed = {value.name: {**given, "x": X, "logits.grad_output": SEED}[value.name] for value in second.get_inputs()}
    (gradient,) = second.run(["fc1.weight.grad"], fed)
    np.testing.assert_allclose(gradient, torch_gradients(["fc1.weight"], X, SEED)["fc1.weight"], rtol=1e-5, atol=1e-6)

    loaded = onnxgrad.SplitProgram.load(forward, backward)
    _, pullback = loaded.session().vjp({"x": X})
    np.testing.assert_array_equal(pullback({"logits": SEED})["fc1.weight"], gradient)
    assert ir.to_proto(loaded.joint().model).graph.output[0].name == "logits"


def test_a_random_node_runs_once() -> None:
    model = parse(
        "g (float[N, 64] x) => (float[N, 2] y) { h = MatMul (x, v) d, m = Dropout (h, ratio, on) y = MatMul (d, w) }",
        {"v": random(64, 64), "w": random(64, 2), "ratio": np.float32(0.5).reshape(()), "on": np.array(True)},
    )
    split = onnxgrad.compile(model, split=True)
    operators = [node.op_type for node in (*split.forward.model.graph, *split.backward.model.graph)]
    assert operators.count("Dropout") == 1
    with pytest.raises(onnxgrad.InputError, match=r"Dropout computes at random and must not be computed twice"):
        onnxgrad.compile(model, split=True, residuals=["h"])


@pytest.mark.parametrize(
    ("residuals", "message"),
    [
        ("least", r"residuals: 'least' is no value of the forward part; .*'min' or 'fast'"),
        (["logits.grad_output"], r"residuals: 'logits.grad_output' is no value of the forward part"),
    ],
)
def test_residuals_that_cannot_work(residuals: list[str], message: str) -> None:
    with pytest.raises(onnxgrad.InputError, match=message):
        onnxgrad.compile(mlp(), split=True, residuals=residuals)


def test_models_of_two_compilations_do_not_go_together(tmp_path: Path) -> None:
    onnxgrad.compile(mlp(), split=True).save(tmp_path / "f.onnx", tmp_path / "b.onnx")
    other = parse("g (float[N, 4] q) => (float[N, 2] y) { a = MatMul (q, v) y = Tanh (a) }", {"v": random(4, 2)})
    onnxgrad.compile(other, split=True).save(tmp_path / "f2.onnx", tmp_path / "b2.onnx")
    with pytest.raises(onnxgrad.InputError, match=r"not of one compilation"):
        onnxgrad.SplitProgram.load(tmp_path / "f.onnx", tmp_path / "b2.onnx")
    with pytest.raises(onnxgrad.InputError, match=r"two files"):
        onnxgrad.compile(mlp(), split=True).save(tmp_path / "f.onnx", tmp_path / "f.onnx")


def test_accumulation_is_the_pullback_s() -> None:
    with pytest.raises(onnxgrad.InputError, match=r"`pullback.backward`"):
        onnxgrad.compile(mlp(), split=True, mode="accumulate")
