"""The options of `onnxgrad compile` that say how gradients flow, and that split the program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import onnxgrad
from tests.cli.running import run


def test_how_gradients_flow(model: Path) -> None:
    options = ["--frozen", "fc1.*", "--retain-grad", "hidden", "--scale-gradient", "hidden=-1", "--json"]
    finished = run("compile", model, *options)
    assert (finished.code, finished.err) == (0, "")
    assert json.loads(finished.out)["gradients"] == ["fc2.weight", "fc2.bias", "hidden"]
    stopped = run("compile", model, "--stop-gradient", "hidden", "--json")
    assert json.loads(stopped.out)["unused"] == ["fc1.weight", "fc1.bias"]
    straight = run("compile", model, "--straight-through-node", "act", "--json")
    assert straight.code == 0


@pytest.mark.parametrize("residuals", [[], ["--residuals", "fast"], ["--residuals", "hidden"]])
def test_two_files(model: Path, residuals: list[str]) -> None:
    finished = run("compile", model, "--loss", "cross_entropy", "--split", *residuals)
    assert (finished.code, finished.err) == (0, "")
    paths = [model.with_name(f"mlp.train.{part}.onnx") for part in ("forward", "backward")]
    assert f"Wrote {paths[0]} and {paths[1]}" in finished.out
    assert onnxgrad.SplitProgram.load(*paths).backward.signature.loss is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--residuals", "min"], "--residuals needs --split"),
        (["--split", "--residuals", "least"], "residuals: 'least' is no value of the forward part"),
        (["--straight-through", "--straight-through-node", "act"], "not both"),
        (["--scale-gradient", "hidden=much"], "hidden=much: the factor is a number"),
        (["--frozen", "layer9"], "`frozen`: no member of `wrt` matches 'layer9'"),
    ],
)
def test_a_mistake_is_one_error_and_writes_nothing(model: Path, arguments: list[str], message: str) -> None:
    finished = run("compile", model, *arguments)
    assert finished.code == 2
    assert message in " ".join(finished.err.replace("│", " ").split())
    assert [file.name for file in model.parent.iterdir()] == [model.name]
