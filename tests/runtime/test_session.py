"""Sessions on the CPU against PyTorch: forward, gradients, accumulation, threads, kinds of arrays, and wrong calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxgrad
from onnxgrad.runtime.device import count_cuda_devices
from onnxgrad.runtime.feeds import to_numpy
from tests.compiler.forward_models import MLP_WEIGHTS, mlp, parse, random, torch_gradients, torch_mlp

X, SEED, LABELS = random(6, 4), random(6, 3, seed=9), np.array([0, 2, 1, 1, 0, 2])
BATCH = {"x": X, "labels": LABELS}
WEIGHTS = list(MLP_WEIGHTS)


def session_of(loss: str | None = None, **options: Any) -> onnxgrad.Session:
    return onnxgrad.compile(mlp(), loss=loss, **options).session()


def torch_loss() -> tuple[float, dict[str, np.ndarray]]:
    logits, tensors = torch_mlp(X)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))
    gradients = torch.autograd.grad(loss, [tensors[name] for name in WEIGHTS])
    return loss.item(), {name: gradient.numpy() for name, gradient in zip(WEIGHTS, gradients, strict=True)}


def assert_close(actual: Any, expected: dict[str, np.ndarray], factor: float = 1.0) -> None:
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], factor * array, rtol=2e-5, atol=1e-6, err_msg=name)


def test_the_forward_pass_needs_no_seed_and_no_labels() -> None:
    expected = {"logits": torch_mlp(X)[0].detach().numpy()}
    for session in (session_of(), session_of("cross_entropy"), session_of("cross_entropy", mode="accumulate")):
        outputs = session.run({"x": X})
        assert list(outputs) == ["logits"]
        assert_close(outputs, expected)
    outputs = session.run(BATCH, loss=True)
    assert list(outputs) == ["logits", "loss"]
    np.testing.assert_allclose(outputs["loss"], torch_loss()[0], rtol=1e-6)
    assert list(session.run(BATCH)) == ["logits"]  # labels that are not asked for are not in the way


def test_fresh_gradients() -> None:
    session = session_of(wrt=[*WEIGHTS, "x"])
    expected = torch_gradients([*WEIGHTS, "x"], X, SEED)
    first = session.grad({"x": X}, {"logits": SEED})
    assert_close(first, expected)
    kept = {name: array.copy() for name, array in first.items()}
    session.grad({"x": -X}, {"logits": SEED})
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)  # later calls do not write over earlier results
    for name in WEIGHTS:
        np.testing.assert_array_equal(session.grads[name], 0)


def test_values_and_gradients_from_one_run() -> None:
    loss, expected = torch_loss()
    for mode in ("grad", "accumulate"):
        outputs, gradients = session_of("cross_entropy", mode=mode).value_and_grad(BATCH)
        assert list(outputs) == ["logits", "loss"]
        np.testing.assert_allclose(outputs["loss"], loss, rtol=1e-6)
        assert_close(gradients, expected)


def test_backward_accumulates_until_zero_grad() -> None:
    loss, expected = torch_loss()
    for mode in ("grad", "accumulate"):
        session = session_of("cross_entropy", mode=mode)
        for calls in range(1, 4):
            outputs = session.backward(BATCH)
            np.testing.assert_allclose(outputs["loss"], loss, rtol=1e-6)
            assert_close(session.grads, expected, calls)
        session.zero_grad()
        for name in WEIGHTS:
            np.testing.assert_array_equal(session.grads[name], 0)
        session.backward(BATCH, {"loss": np.float32(-0.5)})
        assert_close(session.grads, expected, -0.5)


def test_backward_of_inputs_of_fixed_size_and_of_outputs_with_seeds() -> None:
    session = onnxgrad.compile(mlp(6), wrt=["x", "fc1.weight"]).session()
    for _ in range(2):
        session.backward({"x": X}, {"logits": SEED})
    assert_close(session.grads, torch_gradients(["x", "fc1.weight"], X, SEED), 2)
    with pytest.raises(onnxgrad.InputError, match="gradient of x has a symbolic shape; use grad"):
        session_of(wrt="x").backward({"x": X}, {"logits": SEED})


def test_gradient_descent_lowers_the_loss_as_in_pytorch() -> None:
    session = session_of("cross_entropy", mode="accumulate")
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in MLP_WEIGHTS.items()}
    losses = []
    for _ in range(5):
        session.zero_grad()
        losses.append(float(session.backward(BATCH)["loss"]))
        for name in WEIGHTS:
            session.parameters[name] -= 0.5 * session.grads[name]

        hidden = torch.tanh(torch.tensor(X) @ tensors["fc1.weight"].T + tensors["fc1.bias"])
        logits = hidden @ tensors["fc2.weight"].T + tensors["fc2.bias"]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))
        np.testing.assert_allclose(losses[-1], loss.item(), rtol=1e-5)
        gradients = torch.autograd.grad(loss, list(tensors.values()))
        with torch.no_grad():
            for tensor, gradient in zip(tensors.values(), gradients, strict=True):
                tensor -= 0.5 * gradient
    assert losses[-1] < losses[0]
    assert_close(session.parameters, {name: tensor.detach().numpy() for name, tensor in tensors.items()})


def test_parameters_are_writable_views() -> None:
    session = session_of()
    view = session.parameters["fc2.bias"]
    before = session.run({"x": X})["logits"]
    view += 1
    np.testing.assert_allclose(session.run({"x": X})["logits"], before + 1, rtol=1e-5, atol=1e-6)
    session.parameters["fc2.bias"] = MLP_WEIGHTS["fc2.bias"]
    np.testing.assert_array_equal(view, MLP_WEIGHTS["fc2.bias"])
    np.testing.assert_array_equal(session.run({"x": X})["logits"], before)
    assert list(session.parameters) == WEIGHTS
    assert {name: array.shape for name, array in session.parameters.items()} == {
        name: array.shape for name, array in MLP_WEIGHTS.items()
    }
    assert "fc1.weight" in session.parameters
    assert "fc3.weight" not in session.parameters


def test_sessions_of_one_program_do_not_share_parameters() -> None:
    program = onnxgrad.compile(mlp())
    one, other = program.session(), program.session()
    one.parameters["fc1.bias"] = np.zeros(5, np.float32)
    np.testing.assert_array_equal(other.parameters["fc1.bias"], MLP_WEIGHTS["fc1.bias"])
    np.testing.assert_array_equal(program.parameters["fc1.bias"], MLP_WEIGHTS["fc1.bias"])


def test_export_writes_the_parameters_as_they_are(tmp_path: Path) -> None:
    session = session_of()
    session.parameters["fc2.bias"] += 1
    session.export(tmp_path / "tuned.onnx")
    tuned = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "tuned.onnx").graph.initializer}
    assert list(tuned) == WEIGHTS
    np.testing.assert_array_equal(tuned["fc2.bias"], MLP_WEIGHTS["fc2.bias"] + 1)
    np.testing.assert_array_equal(tuned["fc1.bias"], MLP_WEIGHTS["fc1.bias"])


def test_gradients_from_eight_threads_at_once() -> None:
    session = session_of(wrt=[*WEIGHTS, "x"])
    batches = [(random(n % 3 + 2, 4, seed=n), random(n % 3 + 2, 3, seed=n)) for n in range(40)]
    expected = [torch_gradients([*WEIGHTS, "x"], x, seed) for x, seed in batches]
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for (x, seed), gradients in list(zip(batches, expected, strict=True))[worker::8] * 4:
            assert_close(session.grad({"x": x}, {"logits": seed}), gradients)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_backward_calls_from_many_threads_wait_for_each_other() -> None:
    session = session_of("cross_entropy", mode="accumulate")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: session.backward(BATCH), range(64)))
    assert_close(session.grads, torch_loss()[1], 64)


CONVERSIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "NumPy": lambda array: array,
    "NumPy, other strides": lambda array: np.repeat(array, 2, axis=0)[::2],
    "NumPy, Fortran order": np.asfortranarray,
    "NumPy, read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
    "NumPy, big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "OrtValue": ort.OrtValue.ortvalue_from_numpy,
    "PyTorch": torch.tensor,
    "PyTorch, other strides": lambda array: torch.tensor(np.repeat(array, 2, axis=0))[::2],
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_kinds_of_arrays(kind: str) -> None:
    convert = CONVERSIONS[kind]
    assert_close(
        session_of(wrt="x").grad({"x": convert(X)}, {"logits": convert(SEED)}), torch_gradients(["x"], X, SEED)
    )
    gradients = session_of("cross_entropy").grad({"x": convert(X), "labels": convert(LABELS)})
    assert_close(gradients, torch_loss()[1])


def test_results_as_ortvalues() -> None:
    session = session_of("cross_entropy")
    outputs, gradients = session.value_and_grad(BATCH, as_ortvalues=True)
    assert all(isinstance(value, ort.OrtValue) for value in (*outputs.values(), *gradients.values()))
    assert_close({name: value.numpy() for name, value in gradients.items()}, torch_loss()[1])
    outputs = session.run({"x": X}, as_ortvalues=True)
    assert isinstance(outputs["logits"], ort.OrtValue)
    assert isinstance(session.backward(BATCH, as_ortvalues=True)["loss"], ort.OrtValue)
    assert_close(session.grads, torch_loss()[1])


def test_what_one_run_gives_the_next_leaves_alone() -> None:
    session = session_of(wrt=[*WEIGHTS, "x"])
    for options in ({}, {"as_ortvalues": True}):
        given, kept = [], []
        for rows in (6, 2, 6, 3):
            outputs, gradients = session.value_and_grad({"x": X[:rows]}, {"logits": SEED[:rows]}, **options)
            given.append({**outputs, **gradients})
            kept.append({name: np.array(to_numpy(value)) for name, value in given[-1].items()})
        for values, copies in zip(given, kept, strict=True):
            for name, value in values.items():
                np.testing.assert_array_equal(to_numpy(value), copies[name])
        assert_close(kept[0], torch_gradients([*WEIGHTS, "x"], X, SEED))


def test_float16_and_float64_models() -> None:
    for dtype, kind, tolerance in (("float16", np.float16, 5e-3), ("double", np.float64, 1e-12)):
        w = random(3).astype(kind)
        graph = f"g ({dtype}[N, 3] x) => ({dtype}[N, 3] y) {{ m = Mul (x, w) y = Tanh (m) }}"
        session = onnxgrad.compile(parse(graph, {"w": w}), mode="accumulate").session()
        x, dy = random(2, 3).astype(kind), random(2, 3, seed=1).astype(kind)
        session.backward({"x": x}, {"y": dy})
        tw = torch.tensor(w, dtype=torch.float64, requires_grad=True)
        y = torch.tanh(torch.tensor(x, dtype=torch.float64) * tw)
        (expected,) = torch.autograd.grad(y, tw, torch.tensor(dy, dtype=torch.float64))
        assert session.grads["w"].dtype == kind
        np.testing.assert_allclose(session.grads["w"], expected.numpy(), rtol=tolerance, atol=tolerance)


def test_an_input_that_only_some_outputs_need() -> None:
    """A batch may hold what this part of the graph does not read."""
    loss = parse(
        "own (float[N, 3] logits, float[N, 3] t) => (float l) { d = Mul (logits, t) l = ReduceSum <keepdims=0> (d) }"
    )
    session = onnxgrad.compile(mlp(), loss=loss, wrt="fc2.bias").session()
    batch = {"x": X, "t": SEED}
    assert list(session.run(batch)) == ["logits"]
    np.testing.assert_allclose(session.grad(batch)["fc2.bias"], SEED.sum(0), rtol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any] | None, str]] = {
    "missing input": ({}, {"logits": SEED}, "Missing input: 'x' (float32[batch, 4])"),
    "unknown input": ({"x": X, "y": X}, {"logits": SEED}, "There is no input 'y'; the graph takes 'x'"),
    "misspelt input": ({"X": X}, {"logits": SEED}, "There is no input 'X'"),
    "dtype": ({"x": X.astype(np.float64)}, {"logits": SEED}, "'x' is float64, but the graph takes float32; convert it"),
    "integers": ({"x": X.astype(np.int64)}, {"logits": SEED}, "'x' is int64, but the graph takes float32"),
    "dtype of an OrtValue": (
        {"x": ort.OrtValue.ortvalue_from_numpy(X.astype(np.float16))},
        {"logits": SEED},
        "'x' is float16, but the graph takes float32",
    ),
    "rank": ({"x": X[0]}, {"logits": SEED}, "'x' has shape [4], but the graph takes 'x' (float32[batch, 4])"),
    "size": ({"x": X[:, :3]}, {"logits": SEED}, "axis 1 is 3, not 4"),
    "no seed": ({"x": X}, None, "Output 'logits' has more than one element, so its gradient needs a seed"),
    "unknown seed": (
        {"x": X},
        {"logit": SEED, "logits": SEED},
        "'logit' is not differentiated; the outputs are 'logits'",
    ),
    "dtype of the seed": ({"x": X}, {"logits": SEED.astype(np.float64)}, "'logits.grad_output' is float64"),
    "shape of the seed": ({"x": X}, {"logits": SEED[:, :2]}, "'logits.grad_output' has shape [6, 2]"),
    "sizes that disagree": ({"x": X}, {"logits": SEED[:5]}, "'batch' is 6 in one and 5 in the other"),
    "a tensor that requires grad": (
        {"x": torch.tensor(X, requires_grad=True)},
        {"logits": SEED},
        "Input 'x' does not give its memory away through DLPack: Can't export tensors that require gradient",
    ),
    "no array": ({"x": "pixels"}, {"logits": SEED}, "Input 'x' is a str; give a NumPy array"),
    "a dict": ({"x": {}}, {"logits": SEED}, "Input 'x' is a dict; give a NumPy array"),
    "a ragged list": ({"x": [[1.0], [1.0, 2.0]]}, {"logits": SEED}, "Input 'x' is no array"),
    "a list of objects": ({"x": [object()]}, {"logits": SEED}, "Input 'x' is object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_have_one_clear_error(case: str) -> None:
    inputs, seeds, message = WRONG[case]
    session = session_of()
    for _ in range(2):
        for call in (session.grad, session.value_and_grad, session.backward):
            with pytest.raises(onnxgrad.InputError) as error:
                call(inputs, seeds)
            assert message in str(error.value)
        np.testing.assert_array_equal(session.grads["fc1.bias"], 0)
        for call in (session.grad, session.backward):  # after calls that are right, the same are still wrong
            call({"x": X}, {"logits": SEED})
        session.zero_grad()


def test_inputs_are_checked_in_forward_runs_too() -> None:
    session = session_of("cross_entropy")
    with pytest.raises(onnxgrad.InputError, match=r"Missing input: 'labels' \(int64\[batch\]\)"):
        session.run({"x": X}, loss=True)
    with pytest.raises(onnxgrad.InputError, match="Missing inputs: 'x'"):
        session.run({}, loss=True)
    with pytest.raises(onnxgrad.InputError, match="'labels' is int32, but the graph takes int64; convert it with"):
        session.run({"x": X, "labels": LABELS.astype(np.int32)}, loss=True)
    with pytest.raises(onnxgrad.InputError, match="'batch' is 6 in one and 3 in the other"):
        session.grad({"x": X, "labels": LABELS[:3]})


@pytest.mark.parametrize("free_dims", [None, {"batch": 6}])
def test_each_call_has_inputs_and_results_of_its_own(free_dims: dict[str, int] | None) -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", free_dims=free_dims)
    session, other = program.session(), {"x": X[::-1].copy(), "labels": LABELS}
    expected = [program.session().value_and_grad(feeds) for feeds in (BATCH, other)]
    on_device = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in other.items()}
    mapped, strided = (
        {**other, "x": other["x"].view(np.memmap)},
        {**other, "x": np.repeat(other["x"], 2, axis=1)[:, ::2]},
    )
    batches = [BATCH, other, BATCH, on_device, BATCH, mapped, BATCH, strided, BATCH]
    found = [session.value_and_grad(feeds) for feeds in batches]
    found.append(session.value_and_grad(other, {"loss": np.array(1, np.float32)}))
    for (outputs, grads), which in zip(found, (0, 1, 0, 1, 0, 1, 0, 1, 0, 1), strict=True):
        for results, wanted in zip((outputs, grads), expected[which], strict=True):
            for name, array in results.items():
                np.testing.assert_array_equal(array, wanted[name])
    values, _ = session.value_and_grad(BATCH, as_ortvalues=True)
    np.testing.assert_array_equal(values["loss"].numpy(), expected[0][0]["loss"])


def test_a_seed_that_is_not_given_is_one() -> None:
    session, half = session_of("cross_entropy", mode="accumulate"), {"loss": np.array(0.5, np.float32)}
    for seeds, factor in ((None, 1.0), (half, 0.5), ({}, 1.0), (half, 0.5), (None, 1.0)):
        assert_close(session.grad(BATCH, seeds), torch_loss()[1], factor)
        session.backward(BATCH, seeds)
    assert_close(session.grads, torch_loss()[1], 4.0)


@pytest.mark.parametrize("label", [3, -1, 2**40])
@pytest.mark.parametrize("loss", ["cross_entropy", "nll", onnxgrad.losses.CrossEntropy(label_smoothing=0.1)])
def test_a_label_that_is_no_class(label: int, loss: Any, capfd: pytest.CaptureFixture[str]) -> None:
    session = onnxgrad.compile(mlp(), loss=loss, mode="accumulate").session()
    with pytest.raises(onnxgrad.InputError, match="An index or label is out of range; check the values of 'labels'"):
        session.backward({"x": X, "labels": np.where(LABELS == 1, label, LABELS)})
    assert capfd.readouterr().err == ""  # the runtime does not print what is raised
    with pytest.raises(onnxgrad.InputError, match="out of range"):
        session.run({"x": X, "labels": np.full(6, label)}, loss=True)
    session.zero_grad()
    session.backward(BATCH)
    assert np.isfinite(session.grads["fc1.weight"]).all()


def test_a_token_that_the_table_does_not_have() -> None:
    model = parse("g (int64[N] ids) => (float[N, 3] y) { y = Gather (table, ids) }", {"table": random(5, 3)})
    session = onnxgrad.compile(model).session()
    with pytest.raises(onnxgrad.InputError, match="An index or label is out of range; check the values of 'ids'"):
        session.grad({"ids": np.array([0, 5])}, {"y": random(2, 3)})


def test_a_run_that_fails_otherwise_says_why() -> None:
    model = parse(
        "g (float[N, 3] x, float[M, 3] z) => (float[K, 3] y) { s = Add (x, z) y = Mul (s, w) }", {"w": random(3)}
    )
    session = onnxgrad.compile(model).session()
    with pytest.raises(onnxgrad.Error, match="ONNX Runtime could not run the graph: Add node") as error:
        session.run({"x": random(2, 3), "z": random(4, 3)})
    assert "onnxruntime_src" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["fc3.weight", "fc1.weigth"])
def test_parameters_and_gradients_that_are_not_there(name: str) -> None:
    session = session_of()
    with pytest.raises(onnxgrad.InputError, match=f"There is no tensor '{name}'"):
        session.parameters[name] = np.zeros(3, np.float32)
    with pytest.raises(onnxgrad.InputError, match=f"There is no tensor '{name}'"):
        session.grads[name]
    with pytest.raises(onnxgrad.InputError, match=r"'fc1.bias' is float32\[5\], not float32\[4\]"):
        session.parameters["fc1.bias"] = np.zeros(4, np.float32)
    with pytest.raises(onnxgrad.InputError, match=r"'fc1.bias' is float32\[5\], not float64\[5\]"):
        session.parameters["fc1.bias"] = np.zeros(5)


@pytest.mark.skipif(count_cuda_devices() > 0, reason="there is a GPU")
def test_cuda_on_a_machine_without_one_falls_back_to_the_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    for providers in (
        None,
        ["CUDAExecutionProvider", "CPUExecutionProvider"],
        [("CUDAExecutionProvider", {"device_id": 0})],
    ):
        session = onnxgrad.compile(mlp()).session(providers=providers)
        assert session.providers == ["CPUExecutionProvider"]
        assert session.device.kind == "cpu"
        assert_close(session.grad({"x": X}, {"logits": SEED}), torch_gradients(WEIGHTS, X, SEED))
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_does_not_exist() -> None:
    with pytest.raises(onnxgrad.InputError, match=r"'GPU' is no execution provider; ONNX Runtime has .*CPUExecution"):
        onnxgrad.compile(mlp()).session(providers=["GPU"])


def test_session_options_are_used_for_every_graph(tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxgrad.compile(mlp()).session(options=options)
    session.run({"x": X})
    session.grad({"x": X}, {"logits": SEED})
    del session
    assert len(list(tmp_path.glob("profile*.json"))) == 2


def test_a_graph_that_the_runtime_does_not_take() -> None:
    model = parse(
        "g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) { y = Mul (x, w) z = com.example.Own (x) }",
        {"w": random(3)},
    )
    session = onnxgrad.compile(model, outputs="y").session()
    with pytest.raises(onnxgrad.Error, match=r"ONNX Runtime could not load the graph: .*com.example"):
        session.value_and_grad({"x": X[:, :3]}, {"y": SEED})
