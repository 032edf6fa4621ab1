"""Sessions of programs with checkpoints give freed memory back."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxgrad
from onnxgrad.runtime.executor import session_options
from tests.compiler.test_checkpoint import SIZES, network


@pytest.mark.parametrize("options", [{}, {"checkpoint": 3}, {"memory_budget": 10**9}, {"memory_budget": 6 * 10**6}])
def test_the_arena_is_for_programs_without(options: dict[str, int], tmp_path: Path) -> None:
    program = onnxgrad.compile(network(), loss="mse", assume_dims=SIZES, **options)
    program.save(tmp_path / "joint.onnx")
    loaded = onnxgrad.load(tmp_path / "joint.onnx").with_mode("accumulate")
    repeats = bool(options) and options.get("memory_budget") != 10**9
    for each in (program, loaded):
        assert session_options(graph=each.model.graph).enable_cpu_mem_arena is not repeats
