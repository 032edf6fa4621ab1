"""Every transformation on the exports of the zoo: Jacobian and transpose, Hessian, the pair of models, checkpoints.

One export of each architecture runs by default, so that each exporter and both kinds of batch occur; all of them with
ONNXGRAD_TRANSFORMS=all.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad

from ..zoo.exports import EXPORTS, OUTPUT, Export
from .by_hand import nodes_by_hand
from .laws import (
    Arrays,
    Evaluator,
    asymmetry,
    check_adjoint,
    tangent_nodes,
    without_optimizations,
    worst_difference,
)

ALL = os.environ.get("ONNXGRAD_TRANSFORMS") == "all"
ROTATED = [EXPORTS[6 * number + (2, 5, 3, 4, 0, 5, 2, 3, 4, 1)[number % 10]] for number in range(len(EXPORTS) // 6)]


LARGER = {
    "mlp": 1.6,  # a Relu takes a mask and a choice, a Tanh three nodes, of five
    "cnn": 1.56,  # a LeakyRelu takes four nodes, of nine
    "vgg": 1.53,  # a Relu behind each product, and three MaxPool that take two nodes each
    "squeezenet": 1.54,  # a Relu behind each product, and a Softmax that takes four nodes
    "vit": 1.92,  # a LayerNormalization and a Gelu take ten nodes each
    "convnext": 2.69,  # as in vit; a third of its nodes are such ones
}
"""The architectures whose tangents with respect to the inputs take more than 1.5 nodes for each one of the forward
model, also by hand, and how many they take."""

BEYOND_HAND = {
    "bert": 6,  # where the scores' shape is not known to be the mask's, it is computed; NaN of a masked row is kept out
    "distilbert": 6,  # as in bert
    "gpt2": 6,  # as in bert
    "vit": 3,  # the batch of the zeros beside what is concatenated is computed
}
"""The most nodes that the tangents take beyond the count by hand; of all others, none."""


def random(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("export", EXPORTS if ALL else ROTATED, ids=lambda export: export.name)
def test_transformations_of_an_export(export: Export, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(export.to_onnx(export.architecture.build()), path)
    feeds = {n: v.numpy() for n, v in export.architecture.example(3 if export.dynamic_batch else 2).items()}
    outputs = Evaluator(onnx.load(path))(feeds)
    inputs = any(array.dtype.kind == "f" for array in feeds.values())

    for each in (["inputs"] if inputs else []) + (["parameters"] if ALL or not inputs else []):
        pushed, pulled = (onnx.load(t(path, wrt=each, to=tmp_path / "t.onnx")) for t in JVP_AND_VJP)
        check = check_adjoint(Evaluator(onnx.load(path), pushed, pulled), feeds, outputs)
        assert check.error < 1e-5
        assert check.size > 0
        check_nodes(export.architecture.name, each, pushed)

    hessian = onnx.load(
        onnxgrad.hvp(path, wrt="inputs" if inputs else "parameters", loss="mse", to=tmp_path / "t.onnx")
    )
    labels = {"labels": random(outputs[OUTPUT].shape, seed=1)}
    assert asymmetry(Evaluator(hessian), {**feeds, **labels}) < 1e-5

    check_pair_and_checkpoints(path, feeds, {OUTPUT: random(outputs[OUTPUT].shape, seed=2)})


JVP_AND_VJP = (onnxgrad.jvp, onnxgrad.vjp)


def check_nodes(architecture: str, wrt: str, pushed: onnx.ModelProto) -> None:
    """The tangents take about as many nodes as the forward model, and no more than when they are written by hand."""
    tangents, forward = tangent_nodes(pushed)
    assert tangents <= nodes_by_hand(pushed) + BEYOND_HAND.get(architecture, 0)
    if wrt == "inputs":
        assert tangents <= LARGER.get(architecture, 1.5) * forward


def check_pair_and_checkpoints(path: Path, feeds: Arrays, seed: Arrays) -> None:
    """Node by node they compute what the joint graph does, to the last bit; what the runtime fuses rounds otherwise."""
    program = onnxgrad.compile(path)
    plain = without_optimizations()
    expected = program.session(options=plain).grad(feeds, seed)
    fused = program.session().grad(feeds, seed)
    for strategy in ("min", "fast") if ALL else ("min",):
        split = program.split(strategy)
        pulled = split.session(options=plain).vjp(feeds)[1](seed)
        assert pulled.keys() == expected.keys()
        for name, gradient in expected.items():
            np.testing.assert_array_equal(pulled[name], gradient)
        assert worst_difference(split.session().vjp(feeds)[1](seed), fused) < 1e-5
    checkpointed = onnxgrad.compile(path, checkpoint=2).session(options=plain).grad(feeds, seed)
    for name, gradient in expected.items():
        np.testing.assert_array_equal(checkpointed[name], gradient)
