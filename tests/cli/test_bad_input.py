"""Bad input: exit code 2, one clear error on stderr, no stack trace, and nothing written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxgrad
from tests.cli.running import Finished, refused, run
from tests.compiler.forward_models import mlp, parse, random
from tests.compiler.test_load import GARBAGE, HUGE, add_model, external, write


@pytest.mark.parametrize("command", ["compile", "inspect", "check"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_file_that_is_no_model(kind: str, command: str, tmp_path: Path, unchanged) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(GARBAGE[kind])
    assert f"{path} is not a" in refused(unchanged(lambda: run(command, path)))


@pytest.mark.parametrize("command", ["compile", "inspect", "check"])
def test_a_file_that_is_not_there(command: str, tmp_path: Path, unchanged) -> None:
    assert f"There is no file {tmp_path}/m.onnx" in refused(unchanged(lambda: run(command, tmp_path / "m.onnx")))
    assert "cannot be read" in refused(unchanged(lambda: run(command, tmp_path)))


MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "undefined value": (lambda: parse("g (float[3] x) => (float[3] y) { y = Add (x, nowhere) }"), "nowhere"),
    "unknown standard operator": (lambda: parse("g (float[3] x) => (float[3] y) { y = Nonsense (x) }"), "Nonsense"),
    "wrong attribute": (lambda: parse("g (float[3] x) => (float[3] y) { y = Softmax <axes = 1> (x) }"), "axes"),
    "shapes that do not fit": (
        lambda: parse("g (float[2, 3] x) => (float[2, 4] y) { y = MatMul (x, w) }", {"w": random(5, 4)}),
        "MatMul",
    ),
    "no weights": (lambda: parse("g (float[3] x) => (float[3] y) { y = Sin (x) }"), "name what to differentiate"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_not_valid(case: str, tmp_path: Path, unchanged) -> None:
    make, message = MODELS[case]
    path = write(tmp_path, make())
    assert message in refused(unchanged(lambda: run("compile", path)))


@pytest.mark.parametrize("size", HUGE)
def test_a_tensor_that_declares_another_size_than_it_has(size: str, tmp_path: Path, unchanged) -> None:
    tensor = TensorProto()
    tensor.CopyFrom(HUGE[size])
    path = write(tmp_path, add_model(tensor))
    assert "Tensor 'w' of" in refused(unchanged(lambda: run("compile", path)))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (external("../secret.data"), "outside the model's folder"),
        (external("/etc/passwd"), "outside the model's folder"),
        (external("link.data"), "outside the model's folder"),
        (external("gone.data"), "no such file beside the model"),
        (external("short.data"), "too short"),
    ],
)
def test_external_data(tensor: TensorProto, message: str, tmp_path: Path, unchanged) -> None:
    (tmp_path / "model").mkdir()
    for name in ("secret.data", "model/short.data"):
        np.ones(3 if "secret" in name else 1, np.float32).tofile(tmp_path / name)
    (tmp_path / "model" / "link.data").symlink_to(tmp_path / "secret.data")
    path = write(tmp_path / "model", add_model(tensor))
    for command in ("compile", "inspect"):
        assert message in refused(unchanged(lambda command=command: run(command, path)))


def test_an_operator_without_a_rule_on_the_path(tmp_path: Path, unchanged) -> None:
    graph = """g (float[N, 3] x) => (float[N, 3] y) {
        a = Mul (x, w)
        [one] b = com.example.A (a)
        [two] y = com.example.B (b)
    }"""
    path = write(tmp_path, parse(graph, {"w": random(3)}))
    message = refused(unchanged(lambda: run("compile", path)), lines=None)
    assert "com.example.A node 'one'" in message
    assert "com.example.B node 'two'" in message


@pytest.mark.parametrize("kind", ["vjp", "jvp", "jacobian"])
def test_a_model_that_is_not_smooth(kind: str, tmp_path: Path, unchanged) -> None:
    path = write(tmp_path, parse("g (float[3] x) => (float[3] y) { y = Floor (x) }"))
    message = refused(unchanged(lambda: run("transform", kind, path)), lines=None)
    assert "'x'" in message


@pytest.mark.parametrize("target", ["no/o.onnx", "file/o.onnx", "folder", "."])
def test_a_target_that_cannot_be(
    target: str, model: Path, program: Path, data: Path, tmp_path: Path, unchanged
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    path = tmp_path / target if target != "." else target
    reason = "there is no folder" if "/" in target else "it is no regular file"
    for command in (
        ("compile", model, "-o", path),
        ("compile", model, "-o", path, "--split"),
        ("transform", "jvp", model, "-o", path),
        ("report", program, "-o", path),
        ("train", program, "--data", data, "-o", path),
        ("train", program, "--data", data, "-o", tmp_path / "tuned.onnx", "--checkpoint", path),
    ):
        assert f"cannot be written: {reason}" in refused(unchanged(lambda command=command: run(*command)))


@pytest.mark.parametrize("command", [("compile",), ("inspect",), ("check",), ("report",), ("transform", "jvp")])
def test_a_model_without_a_name(command: tuple[str, ...], unchanged) -> None:
    refused(unchanged(lambda: run(*command, "")))


@pytest.mark.parametrize("half", ["forward", "backward"])
def test_half_of_a_split_program(half: str, data: Path, tmp_path: Path, unchanged) -> None:
    split = onnxgrad.compile(mlp(), loss="cross_entropy", split=True)
    split.save(tmp_path / "m.forward.onnx", tmp_path / "m.backward.onnx")
    path = tmp_path / f"m.{half}.onnx"
    for command in (("check", path), ("bench", path, "--rounds", "1"), ("bench", path, "--profile", "--rounds", "1")):
        message = refused(unchanged(lambda command=command: run(*command)))
        assert f"This is the {half} model of a split program" in message
    train = ("train", path, "--data", data, "-o", tmp_path / "tuned.onnx")
    assert ("no loss" if half == "backward" else "computes no gradients") in refused(unchanged(lambda: run(*train)))


def test_a_forward_model_where_a_joint_graph_is_needed(model: Path, data: Path, unchanged) -> None:
    for command in (("check", model), ("train", model, "--data", data, "-o", model.with_name("tuned.onnx"))):
        assert "is no joint graph" in refused(unchanged(lambda command=command: run(*command)))


def save_data(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {"x": random(32, 4), "labels": np.arange(32) % 3} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


nan = random(32, 4)
nan[20, 1] = np.nan

DATA: dict[str, tuple[dict[str, Any], str]] = {
    "labels of another dtype": ({"labels": np.arange(32, dtype=np.int32) % 3}, "Step 1: Input 'labels' is int32"),
    "labels as floats": ({"labels": np.zeros(32)}, "Step 1: Input 'labels' is float64, but the graph takes int64"),
    "another dtype": ({"x": np.zeros((32, 4))}, "Step 1: Input 'x' is float64, but the graph takes float32"),
    "another size": ({"x": random(32, 5)}, "Step 1: Input 'x' has shape [8, 5]"),
    "another rank": ({"x": random(32, 4, 1)}, "Step 1: Input 'x' has shape [8, 4, 1]"),
    "a label that is no class": ({"labels": np.arange(32)}, "An index or label is out of range"),
    "other lengths": ({"labels": np.zeros(31, np.int64)}, "different numbers of samples: 'x' has 32, 'labels' has 31"),
    "no labels": ({"labels": None}, "has no array 'labels'; it has x"),
    "no samples": ({"x": random(0, 4), "labels": np.zeros(0, np.int64)}, "There are no samples"),
    "NaN": ({"x": nan}, "Step 2: The loss is nan; input 'x' has 1 element that are NaN or infinite"),
    "a scalar": ({"x": np.float32(1)}, "There are no samples"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_does_not_fit(case: str, program: Path, tmp_path: Path, unchanged) -> None:
    changes, message = DATA[case]
    path = save_data(tmp_path / "bad.npz", **changes)
    # The order of the samples is that of seed 3, in which sample 20 is in the second batch.
    command = ("train", program, "--data", path, "-o", tmp_path / "tuned.onnx", "--batch-size", "8", "--seed", "3")
    assert message in refused(unchanged(lambda: run(*command)))


def test_data_that_cannot_be_read(program: Path, tmp_path: Path, unchanged) -> None:
    (tmp_path / "text.npz").write_text("labels,x\n1,2\n")
    (tmp_path / "text.safetensors").write_text("labels,x\n1,2\n")
    (tmp_path / "table.csv").write_text("labels,x\n1,2\n")
    np.save(tmp_path / "one.npy", random(3))
    os.replace(tmp_path / "one.npy", tmp_path / "one.npz")
    pickled = np.empty(1, object)
    pickled[0] = print
    np.savez(tmp_path / "pickled.npz", x=pickled)
    for name, message in {
        "text.npz": "is no readable .npz file",
        "one.npz": "is no readable .npz file",
        "pickled.npz": "is no readable .npz file",
        "text.safetensors": "is no readable .safetensors file",
        "table.csv": "data is read from .npz or .safetensors files",
        "gone.npz": "There is no file",
    }.items():
        for command in (("check", program), ("train", program, "-o", tmp_path / "tuned.onnx")):
            finished = unchanged(lambda command=command, name=name: run(*command, "--data", tmp_path / name))
            assert message in refused(finished)


def test_data_without_samples(program: Path, tmp_path: Path, unchanged) -> None:
    np.savez(tmp_path / "none.npz", x=random(0, 4), labels=np.zeros(0, np.int64))
    for command in (("check", program, "--data"), ("report", program, "--data"), ("bench", program, "--inputs")):
        finished = unchanged(lambda command=command: run(*command, tmp_path / "none.npz"))
        assert "There are no samples in" in refused(finished)


def test_an_intermediate_value_cannot_be_checked(tmp_path: Path, unchanged) -> None:
    onnxgrad.compile(mlp(), wrt="hidden").save(tmp_path / "m.train.onnx")
    message = refused(unchanged(lambda: run("check", tmp_path / "m.train.onnx")))
    assert "'hidden' is an intermediate value" in message


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk(
    existing: bool, model: Path, program: Path, data: Path, unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = model.with_name("out.onnx")
    if existing:
        target.write_bytes(b"the file of yesterday")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for command in (("compile", model, "-o", target), ("train", program, "--data", data, "-o", target)):
        message = refused(unchanged(lambda command=command: run(*command)))
        assert f"{target} cannot be written: No space left on device" in message


def test_a_file_that_the_system_cuts_off(model: Path, unchanged) -> None:
    """A write that truly fails midway: files may have 1,000 bytes here."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
    script = limit + "from onnxgrad.cli import main; main()"

    def command() -> Finished:
        result = subprocess.run(
            [sys.executable, "-B", "-c", script, "compile", model], capture_output=True, text=True, check=False
        )
        return Finished(result.returncode, result.stdout, result.stderr)

    assert "mlp.train.onnx cannot be written: File too large" in refused(unchanged(command))


def test_a_target_that_is_no_regular_file(model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe cannot be written: it is no regular file" in refused(run("compile", model, "-o", tmp_path / "pipe"))
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_is_not_there(model: Path, tmp_path: Path, unchanged) -> None:
    message = refused(unchanged(lambda: run("compile", model, "-o", tmp_path / "no" / "m.onnx")))
    assert "cannot be written: there is no folder" in message


def test_the_shell_sees_the_exit_code_and_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from onnxgrad.cli import main; main()", "compile", tmp_path / "gone.onnx"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert (result.stdout, result.stderr) == ("", f"onnxgrad: error: There is no file {tmp_path}/gone.onnx\n")
