"""The estimated peak of memory against the resident set of a process that runs the graph."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.passes.peak_memory import estimate_peak

from ..zoo.catalogue import ARCHITECTURES
from ..zoo.exports import Export

MARGIN = 0.2
"""Of what was measured; kernels' own scratch memory and what the runtime fuses are not in the estimate."""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's high-water mark")
@pytest.mark.parametrize(("name", "batch"), [("mlp", 1 << 17), ("cnn", 512), ("bert", 512)])
def test_the_estimate_is_what_a_process_takes(name: str, batch: int, tmp_path: Path) -> None:
    architecture = next(each for each in ARCHITECTURES if each.name == name)
    export = Export(architecture, "dynamo", dynamic_batch=True)
    program = onnxgrad.compile(export.to_onnx(architecture.build()), loss="mse")
    program.save(tmp_path / "joint.onnx")
    feeds = {key: value.numpy() for key, value in architecture.example(batch).items()}
    (labels,) = program.signature.inputs_of("label")
    feeds[labels.name] = np.zeros((batch, *map(int, (labels.shape or ())[1:])), np.float32)
    np.savez(tmp_path / "feeds.npz", **feeds)
    root, files = Path(__file__).parents[2], [str(tmp_path / "joint.onnx"), str(tmp_path / "feeds.npz")]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.runtime.peak_of_a_run", *files]
    measured = int(subprocess.run(command, env=environment, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    estimated = estimate_peak(program.model.graph, {"batch": batch}).bytes
    assert measured > 10e6
    assert abs(estimated / measured - 1) < MARGIN, (estimated / 1e6, measured / 1e6)
