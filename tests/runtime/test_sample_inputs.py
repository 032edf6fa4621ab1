"""Inputs that are made up: they fit the signature, and indices are valid ones over their whole range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.runtime.sample_inputs import sample_inputs, sample_seeds
from tests.compiler.forward_models import mlp, parse, random

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"

EMBEDDING = """g (int32[N, 4] tokens, float16[N] scale, bool[N] keep, int64[N] segment) => (float[N, 4, 3] y) {
    embedded = Gather (table, tokens)
    factor = Cast <to = 1> (scale)
    kept = Cast <to = 1> (keep)
    segments = Cast <to = 1> (segment)
    both = Mul (factor, kept)
    all = Add (both, segments)
    mean = ReduceMean <keepdims = 0> (all)
    y = Mul (embedded, mean)
}"""


def test_dtypes_shapes_and_ranges() -> None:
    program = onnxgrad.compile(parse(EMBEDDING, {"table": random(50, 3)}))
    arrays = sample_inputs(program, {"N": 100})
    described = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    assert described == {
        "tokens": ("int32", (100, 4)),
        "scale": ("float16", (100,)),
        "keep": ("bool", (100,)),
        "segment": ("int64", (100,)),
    }
    assert set(np.unique(arrays["tokens"])) == set(range(50)), "400 draws of 50 tokens meet each of them"
    assert set(np.unique(arrays["segment"])) == {0, 1}
    session = program.session()
    assert session.grad(arrays, sample_seeds(session, arrays))["table"].all()


def test_labels_are_classes() -> None:
    program = onnxgrad.compile(DIGITS, loss="cross_entropy")
    arrays = sample_inputs(program, {"batch": 300})
    assert arrays["image"].shape == (300, 1, 8, 8)
    assert set(np.unique(arrays["labels"])) == set(range(10))
    assert np.isfinite(program.session().run(arrays, loss=True)["loss"])


def test_seeds_fit_the_outputs_that_need_one() -> None:
    session = onnxgrad.compile(mlp()).session()
    arrays = sample_inputs(session.program, {"batch": 6})
    (seed,) = sample_seeds(session, arrays).values()
    assert (seed.dtype, seed.shape) == (np.float32, (6, 3))
    with_loss = onnxgrad.compile(mlp(), loss="cross_entropy").session()
    assert sample_seeds(with_loss, sample_inputs(with_loss.program)) == {}


def test_a_seed_of_the_generator_makes_other_inputs() -> None:
    program = onnxgrad.compile(mlp())
    first, again, other = (sample_inputs(program, seed=seed)["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_cannot_be_made() -> None:
    program = onnxgrad.compile(mlp())
    with pytest.raises(onnxgrad.InputError, match="no input has a symbolic dim 'bach'; nearest: batch"):
        sample_inputs(program, {"bach": 3})
