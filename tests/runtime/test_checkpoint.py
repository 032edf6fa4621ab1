"""Checkpoints: a training that is stopped, or killed, continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
import safetensors.numpy

import onnxgrad
from onnxgrad.compiler import schedules
from onnxgrad.passes.errors import Error, InputError
from onnxgrad.runtime.batches import Batches
from onnxgrad.runtime.checkpoint import Progress, load_checkpoint, save_checkpoint
from onnxgrad.runtime.optimizer import SGD, AdamW, Optimizer
from onnxgrad.runtime.session import Session
from onnxgrad.runtime.trainer import StepReport, Trainer

from . import mlp

EPOCHS, STEPS_AN_EPOCH = 4, 5


class Stopped(Exception):
    """Stands for Ctrl-C."""


def adamw(session: Session) -> Optimizer:
    return AdamW(session, 0.03)


def sgd(session: Session) -> Optimizer:
    return SGD(session, 0.1, momentum=0.9)


def training(
    checkpoint: Path | None = None,
    *,
    make: Callable[[Session], Optimizer] = adamw,
    on_step: Callable[[StepReport], None] | None = None,
) -> tuple[Trainer, Batches]:
    """Twenty steps in four epochs of shuffled micro-batches, with all that changes from step to step."""
    session = mlp.session()
    trainer = Trainer(
        session,
        make(session),
        accumulate=2,
        clip_norm=0.5,
        schedule=schedules.cosine(EPOCHS * STEPS_AN_EPOCH, warmup=3),
        checkpoint=checkpoint,
        checkpoint_every=None if checkpoint is None else 1,
        on_step=on_step,
    )
    return trainer, Batches(mlp.data(76), 8, shuffle=True, seed=4)


def stop_after(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise Stopped

    return on_step


def everything(trainer: Trainer) -> dict[str, np.ndarray]:
    """Parameters and optimizer state."""
    return {
        **{name: np.array(array) for name, array in trainer.session.parameters.items()},
        **trainer.optimizer.state(),
    }


def check_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("stop_at", [1, 4, STEPS_AN_EPOCH, 13, EPOCHS * STEPS_AN_EPOCH])
def test_a_stopped_training_continues_bit_for_bit(
    tmp_path: Path, stop_at: int, make: Callable[[Session], Optimizer]
) -> None:
    """In mid-epoch, at the end of an epoch (before it is counted), and at the very end."""
    whole, batches = training(make=make)
    history = whole.fit(batches, epochs=EPOCHS)
    assert len(history.steps) == EPOCHS * STEPS_AN_EPOCH

    checkpoint = tmp_path / "training.safetensors"
    stopped, batches = training(checkpoint, make=make, on_step=stop_after(stop_at))
    assert not stopped.resume()
    with pytest.raises(Stopped):
        stopped.fit(batches, epochs=EPOCHS)

    resumed, batches = training(checkpoint, make=make)
    assert resumed.resume()
    assert resumed.progress.step == stop_at
    rest = resumed.fit(batches, epochs=EPOCHS)
    assert rest.steps == history.steps[stop_at:]
    check_equal(everything(resumed), everything(whole))
    assert resumed.progress == whole.progress


def test_epochs_are_resumed_without_checkpoints_in_between(tmp_path: Path) -> None:
    whole, batches = training()
    whole.fit(batches, epochs=EPOCHS)
    checkpoint = tmp_path / "training.safetensors"
    session = mlp.session()

    def trainer(session: Session) -> Trainer:
        return Trainer(
            session,
            AdamW(session, 0.03),
            accumulate=2,
            clip_norm=0.5,
            schedule=schedules.cosine(EPOCHS * STEPS_AN_EPOCH, warmup=3),
            checkpoint=checkpoint,
        )

    trainer(session).fit(batches, epochs=2)
    resumed = trainer(mlp.session())
    assert resumed.resume()
    assert resumed.progress == Progress(step=10, epoch=2, batch=0)
    assert len(resumed.fit(batches, epochs=EPOCHS).steps) == 10
    check_equal(everything(resumed), everything(whole))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_training_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    """Killed again and again, in the middle of steps and of writing, the training arrives where it would have."""
    states: list[dict[str, np.ndarray]] = []
    whole, batches = training(on_step=lambda report: states.append(everything(whole)))
    whole.fit(batches, epochs=EPOCHS)

    checkpoint = tmp_path / "training.safetensors"
    generator = np.random.default_rng(1)
    reached = [0]
    while reached[-1] < EPOCHS * STEPS_AN_EPOCH:
        kill_after(reached[-1] + int(generator.integers(2, 6)), float(generator.uniform(0, 0.02)), checkpoint)
        resumed, _ = training(checkpoint)
        assert resumed.resume()
        assert resumed.progress.step > reached[-1]
        reached.append(resumed.progress.step)
        check_equal(everything(resumed), states[reached[-1] - 1])
    assert len(reached) > 3


def kill_after(step: int, delay: float, checkpoint: Path) -> None:
    """Continue the training in a process of its own, and kill it *delay* seconds after it reported *step*."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from tests.runtime import test_checkpoint as t; t.train_and_tell({str(checkpoint)!r})",
        ],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= step:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode in (-signal.SIGKILL, 0)


def train_and_tell(checkpoint: str) -> None:
    """The training of a process that is going to be killed; it writes each step it made."""

    def tell(report: onnxgrad.StepReport) -> None:
        print(report.step, flush=True)
        time.sleep(0.005)  # else all steps are made before the other process can do anything

    trainer, batches = training(Path(checkpoint), on_step=tell)
    trainer.resume()
    trainer.fit(batches, epochs=EPOCHS)


def test_nothing_is_left_beside_the_checkpoint(tmp_path: Path) -> None:
    trainer, batches = training(tmp_path / "training.safetensors")
    trainer.fit(batches, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


def test_a_failed_write_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "training.safetensors"
    trainer, batches = training(path, on_step=stop_after(3))
    with pytest.raises(Stopped):
        trainer.fit(batches)
    before = path.read_bytes()

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def full_disk_in_safetensors(*_: Any) -> None:
        raise safetensors.SafetensorError("No space left on device")

    for broken, failure in {"os.fsync": full_disk, "safetensors.numpy.save_file": full_disk_in_safetensors}.items():
        monkeypatch.setattr(broken, failure)
        with pytest.raises(Error, match=r"training.safetensors cannot be written: No space left"):
            trainer.save_checkpoint()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no checkpoint"), "no readable checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "no readable checkpoint"),
        (lambda path: rewrite(path, metadata=lambda m: {}), "no checkpoint of onnxgrad"),
        (lambda path: rewrite(path, metadata=lambda m: {**m, "progress": "{"}), "metadata"),
        (lambda path: rewrite(path, metadata=lambda m: {**m, "progress": '{"steps": 1}'}), "metadata"),
        (lambda path: rewrite(path, metadata=lambda m: {**m, "optimizer": "SGD(lr=1.0)"}), r"written with SGD\(lr=1.0"),
        (
            lambda path: rewrite(path, tensors=lambda t: without(t, "parameters/head.bias")),
            "another model.*'head.bias'",
        ),
        (
            lambda path: rewrite(path, tensors=lambda t: {**t, "parameters/head.bias": np.zeros(4, np.float32)}),
            r"another model: 'head.bias' is float32\[3\], not float32\[4\]",
        ),
        (lambda path: rewrite(path, tensors=lambda t: without(t, "optimizer/step")), "lacks 'step'"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "training.safetensors"
    trainer, batches = training(path)
    trainer.fit(batches)
    write(path)
    other, _ = training(path)
    before = everything(other)
    with pytest.raises(InputError, match=message):
        other.resume()
    check_equal(everything(other), before)
    assert other.progress == Progress()


def rewrite(
    path: Path,
    *,
    tensors: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors,
    metadata: Callable[[dict[str, str]], dict[str, str]] = lambda metadata: metadata,
) -> None:
    """Change a checkpoint."""
    with safetensors.safe_open(path, framework="numpy") as file:
        old = file.metadata()
    changed = tensors({name: np.asarray(array + 1) for name, array in safetensors.numpy.load_file(path).items()})
    safetensors.numpy.save_file(changed, path, metadata(old) or None)


def without(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in tensors.items() if key != name}


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    trainer, batches = training(path)
    trainer.fit(batches)
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["parameters/head.bias"], trainer.session.parameters["head.bias"])
    assert tensors["optimizer/step"] == 5
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["progress"]) == {"step": 5, "epoch": 1, "batch": 0}
    assert metadata["optimizer"] == trainer.optimizer.describe()


def test_types_that_numpy_lacks_come_back_as_they_were(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> scale (bfloat16[4] x) => (bfloat16[4] y) { y = Mul (x, "a.weight") }'
    )
    weight = np.array([1.5, -2.25, 3e30, 1e-30], ml_dtypes.bfloat16)
    proto.graph.initializer.append(
        onnx.helper.make_tensor("a.weight", onnx.TensorProto.BFLOAT16, [4], weight.tobytes(), raw=True)
    )
    program = onnxgrad.compile(proto, mode="accumulate")
    session, again = (
        program.session(providers=["CPUExecutionProvider"]),
        program.session(providers=["CPUExecutionProvider"]),
    )
    optimizer, continued = SGD(session, momentum=0.9), SGD(again, momentum=0.9)
    again.parameters["a.weight"] = np.zeros(4, ml_dtypes.bfloat16)
    save_checkpoint(tmp_path / "c.safetensors", session, optimizer, Progress(1, 2, 3))
    assert load_checkpoint(tmp_path / "c.safetensors", again, continued) == Progress(1, 2, 3)
    restored = again.parameters["a.weight"]
    assert restored.dtype == ml_dtypes.bfloat16
    assert restored.tobytes() == weight.tobytes()
