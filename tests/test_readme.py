"""What README.md shows runs: its commands one after the other, and its Python."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.cli.running import run
from tests.compiler.forward_models import parse, random

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CLASSIFIER = (
    'g (float[batch, 4] x) => (float[batch, 3] logits) { logits = Gemm <transB = 1> (x, "fc.weight", "fc.bias") }'
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: the model and data that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(CLASSIFIER, {"fc.weight": random(3, 4), "fc.bias": random(3)}), tmp_path / "model.onnx")
    for name in ("batch", "train", "val"):
        np.savez(tmp_path / f"{name}.npz", x=random(128, 4), labels=np.arange(128) % 3)
    (tmp_path / "models").mkdir()
    for name in ("digits.onnx", "digits.npz"):
        shutil.copy(ROOT / "models" / name, tmp_path / "models" / name)
    return tmp_path


def test_the_commands(folder: Path) -> None:
    text = "".join(_blocks("")).replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("onnxgrad ")]
    names = [shlex.split(command)[1] for command in commands]
    assert sorted(names) == ["bench", "check", "compile", "inspect", "ops", "report", "train", "transform"]
    for command in commands:
        finished = run(*shlex.split(command)[1:])
        assert finished.code == 0, f"{command}: {finished.err}"
    for file in ("report.html", "profile.png", "model.jvp.onnx", "tuned.onnx"):
        assert (folder / file).stat().st_size > 0


def test_the_code(folder: Path) -> None:
    first, second, third = _blocks("python")
    names: dict[str, Any] = {}
    exec(first.replace("range(200)", "range(20)"), names)
    assert (folder / "tuned.onnx").exists()
    x, labels = random(5, 4), np.arange(5) % 3
    names |= {"inputs": {"x": x, "labels": labels}, "x": x, "labels": labels, "onnxruntime": onnxruntime}
    exec(second, names)
    accumulated = names["session"].grads["fc.weight"].copy()
    exec(third, names)
    np.testing.assert_allclose(names["gradient"], accumulated, rtol=1e-5, atol=1e-7)


def _blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [text for each, text in blocks if each == language]
