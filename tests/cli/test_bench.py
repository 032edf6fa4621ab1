"""`onnxgrad bench`: what it prints, what it draws, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.cli.running import contents, refused, run
from tests.compiler.forward_models import mlp, parse, random

QUICK = ("--rounds", "2", "--threads", "1")
PNG = b"\x89PNG\r\n\x1a\n"


def test_the_benchmark(program: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    shown = run("bench", program, "--dim", "batch=8", *QUICK)
    assert (shown.code, shown.err) == (0, "")
    assert "x float32[8, 4], labels int64[8]" in shown.out
    for row in (
        "step: forward and backward, mode accumulate",
        "inference session",
        "AdamW alone",
        "peak resident memory",
    ):
        assert row in shown.out
    result = json.loads(run("bench", program, "--dim", "batch=8", "--json", *QUICK).out)
    assert (result["rounds"], result["threads"]) == (2, 1)
    assert result["providers"] == ["CPUExecutionProvider"]
    step, forward = (result["seconds"][name]["median"] for name in ("step", "forward"))
    assert min(step, forward) > 0
    assert result["ratios"]["forward"]["median"] == pytest.approx(step / forward, rel=0.5)
    assert contents(tmp_path) == before


def test_the_profile(program: Path, tmp_path: Path) -> None:
    picture = tmp_path / "profile.png"
    shown = run("bench", program, "--profile", "--picture", picture, "--dim", "batch=8", "--top", "2", *QUICK)
    assert (shown.code, shown.err) == (0, "")
    assert picture.read_bytes().startswith(PNG)
    assert f"Wrote {picture}" in shown.out
    by_operator, by_node = shown.out.split("By forward node")
    for operator in ("Gemm", "Tanh", "SoftmaxCrossEntropyLoss", "(gradient buffers)", "all kernels"):
        assert operator in by_operator
    assert "loss/Where" not in by_node, "only two nodes are listed"
    result = json.loads(run("bench", program, "--profile", "--json", *QUICK).out)
    assert result["steps"] == 2
    parts = ("forward", "backward", "recomputed")
    for table in ("operators", "nodes"):
        total = sum(row[part] for row in result[table] for part in parts)
        assert total == pytest.approx(result["kernels"])
    rows = {row["name"]: row for row in result["nodes"]}
    assert {"fc1", "act", "fc2"} <= rows.keys()
    assert rows["fc2"]["operator"] == "Gemm"
    assert rows["fc2"]["backward"] > 0


def test_inputs_of_a_file(program: Path, data: Path) -> None:
    shown = run("bench", program, "--inputs", data, "--profile", *QUICK)
    assert shown.code == 0
    assert "x float32[64, 4], labels int64[64]" in shown.out


def test_a_program_without_a_loss_is_seeded(tmp_path: Path) -> None:
    path = tmp_path / "m.train.onnx"
    onnxgrad.compile(mlp(), wrt="inputs").save(path)
    shown = run("bench", path, *QUICK)
    assert shown.code == 0
    assert "Not measured: AdamW alone: no parameter was differentiated" in shown.out
    assert run("bench", path, "--profile", *QUICK).code == 0


def test_names_are_printed_as_they_are(tmp_path: Path) -> None:
    name = "[/b][red]$x_1$"
    path = tmp_path / "m.train.onnx"
    graph = f'g (float[N, 3] x) => (float[N, 3] y) {{ ["{name}"] y = Mul (x, w) }}'
    onnxgrad.compile(parse(graph, {"w": random(3)})).save(path)
    shown = run("bench", path, "--profile", "--picture", tmp_path / "p.png", *QUICK)
    assert shown.code == 0
    assert name in shown.out


def test_what_is_refused(
    model: Path, program: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "other.npz", x=random(8, 5), labels=np.zeros(8, np.int64))
    np.savez(tmp_path / "classes.npz", x=random(8, 4), labels=np.full(8, 7))
    (tmp_path / "text.onnx").write_text("no model")
    onnx.save(parse("g (string[N] s, float[N, 3] x) => (float[N, 3] y) { y = Mul (x, w) }", {"w": random(3)}), model)
    strings = tmp_path / "strings.train.onnx"
    onnxgrad.compile(model).save(strings)
    before = contents(tmp_path)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((model,), "is no joint graph: its metadata has no 'onnxgrad.signature'. Compile it first: onnxgrad compile"),
        ((tmp_path / "gone.onnx",), "There is no file"),
        ((tmp_path / "text.onnx",), "is not a"),
        ((program, "--dim", "bach=3"), "no input has a symbolic dim 'bach'; nearest: batch"),
        ((program, "--inputs", tmp_path / "gone.npz"), "There is no file"),
        ((program, "--inputs", tmp_path / "other.npz"), "Input 'x' has shape [8, 5]"),
        ((program, "--inputs", tmp_path / "classes.npz"), "An index or label is out of range"),
        ((program, "--inputs", data, "--dim", "batch=3"), "--inputs has sizes of its own"),
        ((program, "--provider", "GPU"), "'GPU' is no execution provider"),
        ((program, "--picture", tmp_path / "p.png"), "--picture draws the profile; give --profile too"),
        ((program, "--profile", "--picture", tmp_path / "p.pdf"), "--picture writes a .png file"),
        ((program, "--profile", "--picture", tmp_path / "no" / "p.png"), "there is no folder"),
        ((strings,), "No sample can be made for input 's'; give data"),
    ]
    for arguments, message in cases:
        for kind in ((), ("--profile",)) if "--picture" not in arguments else ((),):
            assert message in refused(run("bench", *arguments, *kind))
    for option in (("--rounds", "0"), ("--threads", "0"), ("--top", "-1")):
        assert run("bench", program, *option).code == 2
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    message = refused(run("bench", program, "--profile", "--picture", tmp_path / "p.png"))
    assert "needs matplotlib; install it with: pip install 'onnxgrad[demo]'" in message
    assert contents(tmp_path) == before
