"""The demo: train `digits.onnx` on real handwriting with ONNX Runtime, and get the forward model back, tuned."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from training_curve import draw_training_curve

import onnxgrad

MODELS = Path(__file__).parent
FORWARD, DATA = MODELS / "digits.onnx", MODELS / "digits.npz"
OUT = MODELS.parent / "out"
JOINT, TUNED, CURVE = OUT / "digits.train.onnx", OUT / "digits.tuned.onnx", OUT / "digits.training.png"
EPOCHS, BATCH_SIZE, LEARNING_RATE = 20, 32, 3e-3


def main() -> None:
    console = Console()
    data = np.load(DATA)
    batches = onnxgrad.Batches({"image": data["train_image"], "labels": data["train_labels"]}, BATCH_SIZE, shuffle=True)
    held_out = onnxgrad.Batches({"image": data["test_image"], "labels": data["test_labels"]}, len(data["test_labels"]))

    OUT.mkdir(exist_ok=True)
    start = time.perf_counter()
    program = onnxgrad.compile(FORWARD, loss="cross_entropy", mode="accumulate")
    program.save(JOINT)
    compiled = time.perf_counter() - start

    start = time.perf_counter()
    session = program.session()
    columns = (TextColumn("epoch {task.fields[epoch]:2}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("train", total=EPOCHS * len(batches), epoch=1, now="")

        def show(report: onnxgrad.StepReport) -> None:
            now = f"loss {report.loss:.4f}  accuracy {report.metrics['accuracy']:4.0%}"
            bar.update(task, completed=report.step, epoch=report.epoch + 1, now=now)

        trainer = onnxgrad.Trainer(
            session,
            onnxgrad.AdamW(session, lr=LEARNING_RATE),
            metrics={"accuracy": onnxgrad.metrics.accuracy("logits")},
            on_step=show,
        )
        before = trainer.evaluate(held_out).metrics["accuracy"]
        history = trainer.fit(batches, epochs=EPOCHS, validation=held_out)
    trained = time.perf_counter() - start
    session.export(TUNED)

    accuracies = [before, *(evaluation.metrics["accuracy"] for _, evaluation in history.evaluations)]
    draw_training_curve(
        CURVE, "models/digits.onnx, trained on ONNX Runtime", [step.loss for step in history.steps], accuracies
    )
    console.print(summary(accuracies, compiled, trained))
    console.print(files())
    check(data["test_image"], data["test_labels"], accuracies[-1])
    console.print(
        f"[green]✓[/] {TUNED.name} is a plain forward model: same inputs, outputs, nodes and opset as {FORWARD.name}, "
        f"and onnxruntime alone gets {accuracies[-1]:.1%} of the held-out digits with it."
    )


def summary(accuracies: list[float], compiled: float, trained: float) -> Table:
    forward, joint = (len(onnx.load(file).graph.node) for file in (FORWARD, JOINT))
    table = Table("", "before", "after", title="Training digits.onnx", title_style="bold", min_width=60)
    table.add_row("held-out accuracy", f"{accuracies[0]:.1%}", f"[bold green]{accuracies[-1]:.1%}")
    table.add_row("nodes, forward → joint graph", f"{forward}", f"{joint}")
    table.add_row("compile time", "", f"{compiled:.2f} s")
    table.add_row(f"training time, {EPOCHS} epochs", "", f"{trained:.1f} s")
    return table


def files() -> Table:
    table = Table("file", "bytes", "what it is", title="Files", title_style="bold", min_width=60)
    table.columns[1].justify = "right"
    for file, meaning in (
        (FORWARD, "the forward model, untrained"),
        (JOINT, "the joint graph: forward, loss and gradients"),
        (TUNED, "the forward model, trained"),
        (CURVE, "how it went"),
    ):
        table.add_row(str(file.relative_to(MODELS.parent)), f"{file.stat().st_size:,}", meaning)
    return table


def check(images: np.ndarray, labels: np.ndarray, expected: float) -> None:
    """Hold the tuned file against the original and against the accuracy seen in training, without onnxgrad."""
    original, tuned = onnx.load(FORWARD), onnx.load(TUNED)
    for name in ("node", "input", "output"):
        assert list(getattr(original.graph, name)) == list(getattr(tuned.graph, name)), f"another {name}"
    assert original.opset_import == tuned.opset_import, "another opset"
    session = ort.InferenceSession(TUNED, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    share = float((logits.argmax(axis=1) == labels).mean())
    assert share == expected, f"{share:.1%} of the digits by onnxruntime alone, {expected:.1%} in training"


if __name__ == "__main__":
    main()
