"""Benchmarks of real programs: what is measured, what is not, and that nothing is changed by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.runtime.benchmark import Benchmark, benchmark
from onnxgrad.runtime.peak_memory import measure_in_fresh_process
from onnxgrad.runtime.sample_inputs import sample_inputs, sample_seeds
from tests.compiler.forward_models import mlp, parse, random

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"


def measured(program: onnxgrad.Program, folder: Path, **sizes: int) -> Benchmark:
    path = folder / "m.train.onnx"
    program.save(path)
    inputs = sample_inputs(program, sizes)
    seeds = sample_seeds(program.session(), inputs)
    return benchmark(program, path, inputs, seeds, rounds=3, threads=1)


def test_a_program_with_a_loss(tmp_path: Path) -> None:
    program = onnxgrad.compile(DIGITS, loss="cross_entropy", mode="accumulate")
    before = program.parameters
    result = measured(program, tmp_path, batch=32)
    assert result.left_out == {}
    assert result.seconds.keys() == {"step", "forward", "inference", "step_and_adamw", "adamw"}
    assert all(0 < spread.lower <= spread.median <= spread.upper < 1 for spread in result.seconds.values())
    assert result.seconds["forward"].median < result.seconds["step"].median
    assert result.ratios.keys() == {"forward", "inference"}
    assert result.ratios["forward"].median > 1
    assert 0 < result.loaded.session_seconds < 10
    for name, array in program.parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_gradients_of_inputs_have_no_optimizer(tmp_path: Path) -> None:
    result = measured(onnxgrad.compile(mlp(), wrt="inputs"), tmp_path, batch=3)
    assert result.seconds.keys() == {"step", "forward", "inference"}
    assert result.left_out == {"adamw": "no parameter was differentiated"}


def test_a_gradient_of_symbolic_shape_cannot_be_accumulated(tmp_path: Path) -> None:
    result = measured(onnxgrad.compile(mlp(), wrt=["fc1.weight", "x"]), tmp_path, batch=3)
    assert "the gradient of 'x' has a symbolic shape" in result.left_out["adamw"]


def test_peak_memory_is_that_of_the_steps(tmp_path: Path) -> None:
    """A chain whose intermediate values have known sizes: each of the kept ones adds its own to the peak."""
    nodes = ["v0 = Mul (x, w)", *(f"v{i + 1} = Tanh (v{i})" for i in range(8)), "y = ReduceSum <keepdims = 0> (v8)"]
    program = onnxgrad.compile(parse(f"g (float[N, 1000] x) => (float y) {{ {' '.join(nodes)} }}", {"w": random(1000)}))
    path = tmp_path / "m.train.onnx"
    program.save(path)
    peaks = []
    for size in (1000, 3000):
        inputs = sample_inputs(program, {"N": size})
        peak = measure_in_fresh_process(path, inputs, {}, threads=1).peak_bytes
        if peak is None:
            pytest.skip("this system does not tell the peak of the resident memory")
        peaks.append(peak)
    more = 2000 * 1000 * 4
    assert 8 * more <= peaks[1] - peaks[0] <= 16 * more


def test_an_error_in_the_process_comes_out_here(tmp_path: Path) -> None:
    with pytest.raises(onnxgrad.Error, match="There is no file"):
        measure_in_fresh_process(tmp_path / "gone.onnx", {}, {})
