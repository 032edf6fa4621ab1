"""`onnxgrad transform`: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.running import run
from tests.compiler.forward_models import random
from tests.transforms.running import run as run_model


@pytest.mark.parametrize("kind", ["vjp", "jvp", "jacobian"])
def test_a_derivative_of_the_outputs(kind: str, model: Path) -> None:
    finished = run("transform", kind, model, "--free-dim", "batch=2")
    target = model.with_suffix(f".{kind}.onnx")
    assert (finished.code, finished.err) == (0, "")
    assert f"Wrote {target}" in finished.out
    onnx.checker.check_model(str(target), full_check=True)
    assert "x" in [value.name for value in onnx.load(target).graph.input]


@pytest.mark.parametrize("kind", ["value_and_grad", "hvp", "ggnvp", "hessian"])
def test_a_derivative_of_a_loss(kind: str, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.onnx"
    options = ["--loss", "cross_entropy", "--loss-option", "reduction=sum", "--wrt", "fc2.bias"]
    finished = run("transform", kind, model, "-o", target, *options)
    assert (finished.code, finished.err) == (0, "")
    labels = np.array([0, 2])
    feeds = {"x": random(2, 4), "labels": labels, "fc2.bias.tangent": random(3)}
    written = onnx.load(target)
    names = [value.name for value in written.graph.output if value.name.startswith("fc2.bias.")]
    results = run_model(written, feeds)
    assert names
    assert all(np.linalg.norm(results[name]) > 0 for name in names)


def test_several_seeds(model: Path) -> None:
    assert run("transform", "vjp", model, "--num-seeds", "rows").code == 0
    seed = onnx.load(model.with_suffix(".vjp.onnx")).graph.input[1]
    assert seed.type.tensor_type.shape.dim[0].dim_param == "rows"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vjp", "--loss", "mse"], "--loss is for value_and_grad, hvp, ggnvp, hessian; vjp differentiates the outputs"),
        (["jvp", "--num-seeds", "3"], "--num-seeds is for vjp, not for jvp"),
        (["vjp", "--num-seeds", "-1"], "at least 1, not -1"),
        (["hessian"], "hessian needs an output of one element"),
        (["jvp", "--wrt", "nothing"], "nothing in the model matches 'nothing'"),
        (["hvp", "--loss-option", "reduction=sum"], "--loss-option needs --loss"),
        (["gradient"], "'gradient' is not one of"),
    ],
)
def test_a_mistake_is_one_error_and_writes_nothing(arguments: list[str], message: str, model: Path) -> None:
    kind, *rest = arguments
    finished = run("transform", kind, model, *rest)
    assert finished.code == 2
    assert message in " ".join(finished.err.replace("│", " ").split())
    assert [file.name for file in model.parent.iterdir()] == [model.name]
