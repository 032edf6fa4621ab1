"""Every export, compiled: its values and each parameter's gradient agree with PyTorch's."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad

from ..zoo.exports import EXPORTS, OUTPUT, Export
from ..zoo.gradients import is_zero, reference
from ..zoo.origins import find_origins, pull_back

cached_reference = cache(reference)


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.name)
def test_gradients_of_an_export_agree_with_pytorch(export: Export, exported: Callable[[Export], Path]) -> None:
    file = exported(export)
    program = onnxgrad.compile(file)
    session = program.session()

    # A dynamic batch is run at another size than the one it was exported with.
    expected = cached_reference(export.architecture, 3 if export.dynamic_batch else 2)
    outputs, gradients = session.value_and_grad(expected.feeds, {OUTPUT: expected.seed})

    assert outputs[OUTPUT].shape == expected.output.shape
    assert np.linalg.norm(outputs[OUTPUT] - expected.output) <= 5e-6 * np.linalg.norm(expected.output)
    origins = find_origins(expected.module, onnx.load(file))
    assert set(gradients) == set(origins), "the parameters that are found are those that the module trains"
    errors = expected.errors(pull_back(expected.module, origins, gradients))
    wrong = {name: error for name, error in errors.items() if error > max(1e-4, expected.own_errors[name])}
    assert not wrong


def by_name(name: str) -> Export:
    (export,) = (export for export in EXPORTS if export.name == name)
    return export


@pytest.mark.parametrize("name", ["cnn-dynamo-dynamic", "bert-torchscript-static", "gpt2-dynamo-dynamic"])
def test_two_backward_calls_accumulate_two_gradients(name: str, exported: Callable[[Export], Path]) -> None:
    export = by_name(name)
    session = onnxgrad.compile(exported(export), mode="accumulate").session()
    feeds = {name: value.numpy() for name, value in export.architecture.example().items()}
    (output,) = session.run(feeds).values()
    seed = {OUTPUT: np.random.default_rng(0).standard_normal(output.shape, dtype=np.float32)}

    once = session.grad(feeds, seed)
    session.backward(feeds, seed)
    session.backward(feeds, seed)

    largest = max(abs(gradient).max() for gradient in once.values())
    for parameter, gradient in once.items():
        if is_zero(parameter):
            assert abs(session.grads[parameter]).max() < 1e-6 * largest
        else:
            np.testing.assert_allclose(
                session.grads[parameter], 2 * gradient, rtol=1e-4, atol=1e-5 * abs(gradient).max()
            )
