"""The oracle for models without source agrees with ONNX Runtime on all nine of them."""

import numpy as np
import onnxruntime
import pytest
import torch

from ..zoo import light_models, onnx_in_torch


@pytest.mark.parametrize("name", light_models.NAMES)
def test_it_computes_what_the_runtime_computes(name: str) -> None:
    model = light_models.load(name)
    weights, inputs = light_models.random_weights(model), light_models.random_inputs(model)
    with torch.no_grad():
        ((output, expected),) = onnx_in_torch.run(
            model,
            {name: torch.from_numpy(value) for name, value in inputs.items()},
            {name: torch.from_numpy(value) for name, value in weights.items()},
        ).items()

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # as old files do, these list weights as inputs, which the runtime warns of
    session = onnxruntime.InferenceSession(
        light_models.with_weights(model, weights).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (actual,) = session.run([output], inputs)
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected.numpy()) <= 1e-5 * np.linalg.norm(expected.numpy())


def test_it_runs_the_shipped_weights_where_nothing_overrides_them() -> None:
    model = light_models.load("squeezenet")
    inputs = light_models.random_inputs(model)
    image = {name: torch.from_numpy(value) for name, value in inputs.items()}
    (expected,) = onnx_in_torch.run(model, image, {}).values()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, inputs)[0], expected.numpy(), rtol=1e-5)
