"""The opset-9 classifiers that ship with onnx, with random weights: their gradients agree with PyTorch's."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import onnxgrad

from ..zoo import light_models, onnx_in_torch
from ..zoo.gradients import Gradients, relative_errors

IMAGES = 4


@pytest.mark.parametrize("name", light_models.NAMES)
def test_gradients_agree_with_pytorch(name: str) -> None:
    """For one image of a few: among millions of Relu inputs there may be one that rounding brings across zero, which
    changes gradients by more than rounding. A wrong rule is wrong for every image.
    """
    model = light_models.load(name)
    weights = light_models.random_weights(model)
    trained = sorted(weights.keys() - statistics(model))
    # The statistics are no parameters of a session, so a file that has all weights is what is differentiated.
    program = onnxgrad.compile(light_models.with_weights(model, weights))
    assert sorted(program.parameters) == trained
    session = program.session()
    for image in range(IMAGES):
        inputs = light_models.random_inputs(model, image)
        ((output, value),) = session.run(inputs).items()
        seed = np.random.default_rng(1).standard_normal(value.shape, dtype=np.float32)
        _, gradients = session.value_and_grad(inputs, {output: seed})
        errors = relative_errors(gradients, oracle(model, inputs, weights, trained, seed))
        if max(errors.values()) <= 1e-4:
            return
    assert not {name: error for name, error in errors.items() if error > 1e-4}


def oracle(
    model: onnx.ModelProto,
    inputs: light_models.Weights,
    weights: light_models.Weights,
    trained: list[str],
    seed: np.ndarray,
) -> Gradients:
    leaves = {n: torch.from_numpy(w).double().requires_grad_(n in trained) for n, w in weights.items()}
    images = {n: torch.from_numpy(v) for n, v in inputs.items()}
    (output,) = onnx_in_torch.run(model, images, leaves).values()
    gradients = torch.autograd.grad(output, [leaves[n] for n in trained], torch.from_numpy(seed).double())
    return {n: gradient.numpy() for n, gradient in zip(trained, gradients, strict=True)}


def statistics(model: onnx.ModelProto) -> set[str]:
    """The running means and variances of BatchNormalization nodes."""
    return {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}


def test_tuned_weights_take_the_place_of_generated_ones() -> None:
    """In these files a node generates each large weight; the exported file holds the trained values instead."""
    model = light_models.load("squeezenet")
    weights, inputs = light_models.random_weights(model), light_models.random_inputs(model)
    session = onnxgrad.compile(model).session()
    assert set(session.parameters) == set(weights)
    session.parameters.update(weights)

    tuned = session.program.original(dict(session.parameters.items()))

    assert not [node for node in tuned.graph.node if node.op_type == "ConstantOfShape"]
    assert tuned.opset_import[0].version == model.opset_import[0].version
    assert [value.name for value in tuned.graph.output] == [value.name for value in model.graph.output]
    plain = onnxruntime.InferenceSession(tuned.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(inputs).values()
    np.testing.assert_allclose(plain.run(None, inputs)[0], expected, rtol=1e-5)
