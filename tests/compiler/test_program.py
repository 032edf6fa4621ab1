"""A Program: saved whole or not at all, loaded, run by a plain runtime, in either mode, and back to the original."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import onnxgrad
from onnxgrad.compiler import save
from onnxgrad.compiler.signature import SIGNATURE_KEY, Signature
from onnxgrad.runtime import executor
from tests.compiler.forward_models import MLP_WEIGHTS, mlp, parse, random, torch_mlp

X, LABELS = random(6, 4), np.array([0, 2, 1, 1, 0, 2])
BATCH = {"x": X, "labels": LABELS}


def compiled(mode: str = "grad", **options: Any) -> onnxgrad.Program:
    return onnxgrad.compile(mlp(), loss="cross_entropy", mode=mode, **options)  # type: ignore[arg-type]


def test_saving_and_loading(tmp_path: Path) -> None:
    program = compiled("accumulate")
    program.save(tmp_path / "m.train.onnx")
    loaded = onnxgrad.load(tmp_path / "m.train.onnx")
    assert os.listdir(tmp_path) == ["m.train.onnx"]
    assert loaded.signature == program.signature
    assert ir.to_proto(loaded.model) == ir.to_proto(program.model)
    for name, array in MLP_WEIGHTS.items():
        np.testing.assert_array_equal(loaded.parameters[name], array)
    expected, actual = program.session().grad(BATCH), loaded.session().grad(BATCH)
    for name in MLP_WEIGHTS:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_a_program_is_a_valid_model() -> None:
    for mode in ("grad", "accumulate"):
        onnx.checker.check_model(ir.to_proto(compiled(mode).model), full_check=True)


PLAIN = """
import json, sys
sys.modules["onnxgrad"] = None  # an import of it would fail
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
batch = dict(np.load(sys.argv[2]))
loss, gradient = session.run(["loss", "fc1.weight.grad"], batch)
moved, _ = session.run(["loss", "fc1.weight.grad"], {**batch, "fc2.bias": np.ones(3, np.float32)})
print(json.dumps([float(loss), gradient.tolist(), float(moved)]))
"""


def test_plain_onnxruntime_runs_the_file_without_onnxgrad(tmp_path: Path) -> None:
    compiled().save(tmp_path / "m.train.onnx")
    np.savez(tmp_path / "batch.npz", **BATCH)
    result = subprocess.run(
        [sys.executable, "-c", PLAIN, tmp_path / "m.train.onnx", tmp_path / "batch.npz"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    loss, gradient, moved = json.loads(result.stdout)
    session = compiled().session()
    outputs, gradients = session.value_and_grad(BATCH)
    np.testing.assert_allclose(loss, outputs["loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, gradients["fc1.weight"], rtol=1e-5, atol=1e-7)
    session.parameters["fc2.bias"] = np.ones(3, np.float32)
    np.testing.assert_allclose(moved, session.run(BATCH, loss=True)["loss"], rtol=1e-6)


def test_signature_in_the_metadata(tmp_path: Path) -> None:
    program = compiled("accumulate")
    program.save(tmp_path / "m.train.onnx")
    (entry,) = [e for e in onnx.load(tmp_path / "m.train.onnx").metadata_props if e.key == SIGNATURE_KEY]
    data = json.loads(entry.value)
    assert (data["version"], data["mode"]) == (1, "accumulate")
    roles = {port["name"]: port["role"] for port in (*data["inputs"], *data["outputs"])}
    assert roles["x"] == "input"
    assert roles["labels"] == "label"
    assert roles["fc1.weight"] == "parameter"
    assert roles["loss.grad_output"] == "grad_output"
    assert roles["fc1.weight.grad.buffer"] == roles["fc1.weight.grad"] == "grad_buffer"
    assert roles["logits"] == "output"
    assert roles["loss"] == "loss"
    assert Signature.from_json(entry.value) == program.signature


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.update(version=99), "signature version 99; this onnxgrad reads version 1"),
        (lambda data: data.pop("inputs"), "signature is damaged: 'inputs'"),
        (lambda data: data.update(mode="other"), "unknown mode 'other'"),
        (lambda data: data["inputs"][0].update(colour="red"), "signature is damaged"),
    ],
)
def test_a_damaged_signature(damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path) -> None:
    model = ir.to_proto(compiled().model)
    for entry in model.metadata_props:
        if entry.key == SIGNATURE_KEY:
            data = json.loads(entry.value)
            damage(data)
            entry.value = json.dumps(data)
    onnx.save(model, tmp_path / "m.train.onnx")
    with pytest.raises(onnxgrad.InvalidModelError, match=message):
        onnxgrad.load(tmp_path / "m.train.onnx")


def test_a_forward_model_is_no_program(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    with pytest.raises(onnxgrad.InvalidModelError, match=r"is no joint graph: .* Compile it first"):
        onnxgrad.load(tmp_path / "m.onnx")


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES: dict[str, tuple[object, str]] = {
    "write": (Path, "open"),
    "flush": (os, "fsync"),
    "move": (os, "replace"),
    "folder": (tempfile, "mkdtemp"),
}


@pytest.mark.parametrize("step", WRITES)
@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk_leaves_everything_as_it_was(
    step: str, existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, session = compiled(), compiled().session()
    targets = {tmp_path / "m.train.onnx": program.save, tmp_path / "tuned.onnx": session.export}
    if existing:
        for path in targets:
            path.write_bytes(b"old")
    monkeypatch.setattr(*WRITES[step], full)
    for path, write in targets.items():
        with pytest.raises(onnxgrad.Error, match=f"{path.name} cannot be written: No space left on device"):
            write(path)
    monkeypatch.undo()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == (["m.train.onnx", "tuned.onnx"] if existing else [])
    for path in tmp_path.iterdir():
        assert path.read_bytes() == b"old"


def test_a_disk_that_fills_up_while_external_data_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "EXTERNAL_DATA_THRESHOLD", 0)
    compiled().save(tmp_path / "m.train.onnx")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(onnxgrad.Error, match="No space left on device"):
        compiled("accumulate").save(tmp_path / "m.train.onnx")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(onnxgrad.Error, match="cannot be written: there is no folder"):
        compiled().save(tmp_path / "no" / "m.train.onnx")
    (tmp_path / "taken").mkdir()
    with pytest.raises(onnxgrad.Error, match="taken cannot be written"):
        compiled().save(tmp_path / "taken")
    assert os.listdir(tmp_path) == ["taken"]


def test_large_weights_go_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "EXTERNAL_DATA_THRESHOLD", 1024)
    monkeypatch.setattr(executor, "EXTERNAL_DATA_THRESHOLD", 1024)
    weight, x, dy = random(20, 20), random(2, 20), random(2, 20, seed=1)
    model = parse("g (float[N, 20] x) => (float[N, 20] y) { y = MatMul (x, w) }", {"w": weight})
    onnxgrad.compile(model, mode="accumulate").save(tmp_path / "m.train.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.train.onnx", "m.train.onnx.data"]
    loaded = onnxgrad.load(tmp_path / "m.train.onnx")
    assert isinstance(loaded.model.graph.initializers["w"].const_value, ir.ExternalTensor)
    session = loaded.session()
    session.backward({"x": x}, {"y": dy})
    np.testing.assert_allclose(session.grads["w"], x.T @ dy, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(session.run({"x": x})["y"], x @ weight, rtol=1e-5, atol=1e-6)

    session.export(tmp_path / "tuned.onnx")
    assert "tuned.onnx.data" in os.listdir(tmp_path)
    (tuned,) = onnx.load(tmp_path / "tuned.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tuned), weight)
    # Written over itself, with its weights still mapped from the file that is replaced.
    loaded.save(tmp_path / "m.train.onnx")
    np.testing.assert_array_equal(onnxgrad.load(tmp_path / "m.train.onnx").parameters["w"], weight)


def test_both_modes_are_views_of_one_differentiation() -> None:
    fresh, accumulating = compiled("grad"), compiled("accumulate")
    assert fresh.with_mode("grad") is fresh
    assert isinstance(fresh.with_mode("accumulate"), onnxgrad.Program)
    for program in (fresh, accumulating, fresh.with_mode("accumulate"), accumulating.with_mode("grad")):
        gradients = program.session().grad(BATCH)
        again = program.with_mode("accumulate").with_mode("grad").with_mode("accumulate")
        assert again.signature == accumulating.signature
        session = again.session()
        session.backward(BATCH)
        session.backward(BATCH)
        for name in MLP_WEIGHTS:
            np.testing.assert_allclose(gradients[name], fresh.session().grad(BATCH)[name], rtol=1e-6)
            np.testing.assert_allclose(session.grads[name], 2 * gradients[name], rtol=1e-5, atol=1e-7)
    assert accumulating.with_mode("grad").signature == fresh.signature


def decorated() -> onnx.ModelProto:
    """A model with all that an export may carry: functions, doc strings, metadata, symbolic dims, Constant nodes."""
    model = parse(
        """g (float[batch, 4] x) => (float[batch, 3] logits, float[batch, 3] scaled) {
            [fc] pre = Gemm <transB = 1> (x, "fc.weight", "fc.bias")
            logits = own.Twice (pre)
            "head.scale" = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            scaled = Mul (logits, "head.scale")
        }
        <domain: "own", opset_import: ["" : 17]>
        Twice (a) => (b) { b = Add (a, a) }""",
        {"fc.weight": random(3, 4), "fc.bias": random(3)},
        opset=17,
        header=', producer_name: "exporter", producer_version: "1.2", model_version: 7, doc_string: "what it is"',
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    helper.set_model_props(model, {"license": "none", "task": "classification"})
    model.graph.doc_string = "the graph"
    model.graph.node[0].doc_string = "the node"
    model.graph.input[0].doc_string = "the input"
    model.graph.initializer[0].doc_string = "the weight"
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "fc"
    onnx.checker.check_model(model)
    return model


def as_raw(model: onnx.ModelProto) -> onnx.ModelProto:
    """With all tensors stored as bytes: the one thing about them that may differ."""
    nodes = [attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")]
    for tensor in (*model.graph.initializer, *nodes):
        tensor.raw_data = onnx.numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
    return model


def test_the_original_is_carried_to_the_letter(tmp_path: Path) -> None:
    model = decorated()
    program = onnxgrad.compile(model)
    program.save(tmp_path / "m.train.onnx")
    for given in (program, onnxgrad.load(tmp_path / "m.train.onnx")):
        assert list(given.parameters) == ["fc.weight", "fc.bias", "head.scale"]
        assert as_raw(given.original()) == as_raw(model)


def test_tuned_weights_are_written_into_the_original(tmp_path: Path) -> None:
    model = decorated()
    tuned = {"fc.weight": random(3, 4, seed=5), "head.scale": random(3, seed=6)}
    written = onnxgrad.compile(model).original(tuned)
    onnx.checker.check_model(written, full_check=True)
    x = random(2, 4)
    evaluate = onnx.reference.ReferenceEvaluator(written).run(None, {"x": x})
    logits = 2 * (x @ tuned["fc.weight"].T + random(3))
    np.testing.assert_allclose(evaluate[0], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluate[1], logits * tuned["head.scale"], rtol=1e-5, atol=1e-6)
    expected = decorated()
    expected.graph.initializer[0].raw_data = tuned["fc.weight"].tobytes()
    expected.graph.node[2].attribute[0].t.float_data[:] = tuned["head.scale"].tolist()
    assert as_raw(written) == as_raw(expected)


def test_a_session_exports_what_it_trained(tmp_path: Path) -> None:
    session = compiled("accumulate").session()
    session.backward(BATCH)
    for name, gradient in session.grads.items():
        session.parameters[name] = session.parameters[name] - np.float32(0.5) * gradient
    session.export(tmp_path / "tuned.onnx")
    logits = onnx.reference.ReferenceEvaluator(str(tmp_path / "tuned.onnx")).run(None, {"x": X})[0]
    np.testing.assert_allclose(logits, session.run({"x": X})["logits"], rtol=1e-5, atol=1e-6)
    assert np.abs(logits - torch_mlp(X)[0].detach().numpy()).max() > 1e-3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fc1.weigth": np.zeros(3, np.float32)}, "'fc1.weigth' is no parameter of this program"),
        ({"fc1.bias": np.zeros(4, np.float32)}, "'fc1.bias' is float32\\[5\\], not float32\\[4\\]"),
        ({"fc1.bias": np.zeros(5)}, "'fc1.bias' is float32\\[5\\], not float64\\[5\\]"),
    ],
)
def test_weights_that_do_not_fit_the_original(parameters: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(onnxgrad.InputError, match=message):
        compiled().original(parameters)


def test_compiling_needs_no_file_and_keeps_no_hold_of_one(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    program = onnxgrad.compile(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").unlink()
    assert program.original() == mlp()
