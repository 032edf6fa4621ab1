"""Files that a user of the command line has: a model, its joint graph, and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad
from tests.cli.running import Finished, contents
from tests.compiler.forward_models import mlp, random


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    onnx.save(mlp(), path)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.train.onnx"
    onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate").save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """64 points of three classes, which the first three of their four features tell apart."""
    labels = np.arange(64) % 3
    x = random(64, 4) / 4
    x[np.arange(64), labels] += 1
    path = tmp_path / "data.npz"
    np.savez(path, x=x, labels=labels)
    return path


@pytest.fixture
def unchanged(tmp_path: Path) -> Callable[[Callable[[], Finished]], Finished]:
    """Runs a command after which every file must be what it was before."""

    def check(command: Callable[[], Finished]) -> Finished:
        before = contents(tmp_path)
        finished = command()
        assert contents(tmp_path) == before
        return finished

    return check
