"""The oracle of the exports is right: every initializer's origin is known, and gradients are pulled back through it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ..zoo.exports import EXPORTS, Export
from ..zoo.origins import find_origins, pull_back

KINDS = ("mlp", "resnet_basic", "bert", "llama", "convnext")
kinds = pytest.mark.parametrize(
    "export",
    [e for e in EXPORTS if e.architecture.name in KINDS and not e.dynamic_batch],
    ids=lambda export: export.name,
)


@kinds
def test_origins_hold_for_other_values(export: Export, exported: Callable[[Export], Path]) -> None:
    """Found with one set of values, the origins make the initializers of an export with another."""
    module = export.architecture.build()
    origins = find_origins(module, onnx.load(exported(export)))

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    initializers = {i.name: i for i in export.to_onnx(module).graph.initializer}
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    for name, origin in origins.items():
        expected = numpy_helper.to_array(initializers[name])
        np.testing.assert_allclose(origin.make(parameters).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_pull_back_is_the_adjoint_of_fusing_convolution_and_normalization() -> None:
    (export,) = (e for e in EXPORTS if e.name == "resnet_basic-torchscript-static")
    module = export.architecture.build()
    origins = find_origins(module, export.to_onnx(module))
    parameters = {name: p.detach().double() for name, p in module.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    step = {n: torch.randn(p.shape, dtype=p.dtype, generator=generator) for n, p in parameters.items()}
    gradients = {
        name: torch.randn(origin.make(parameters).shape, generator=generator).numpy()
        for name, origin in origins.items()
    }

    pulled = pull_back(module, origins, gradients)

    along = sum(float((torch.from_numpy(pulled[name]) * step[name]).sum()) for name in parameters)
    size = 1e-6
    ahead = {name: p + size * step[name] for name, p in parameters.items()}
    behind = {name: p - size * step[name] for name, p in parameters.items()}
    differences = {n: (o.make(ahead) - o.make(behind)) / (2 * size) for n, o in origins.items()}
    expected = sum(float((torch.from_numpy(gradients[n]) * d).sum()) for n, d in differences.items())
    assert along == pytest.approx(expected, rel=1e-7)
    assert "1.0.1.weight" not in origins
    assert any(len(origin.parameters) == 2 for origin in origins.values())


def test_a_parameter_without_initializer_is_refused() -> None:
    (export,) = (e for e in EXPORTS if e.name == "mlp-torchscript-static")
    module = export.architecture.build()
    model = export.to_onnx(module)
    removed = model.graph.initializer.pop()
    with pytest.raises(ValueError, match=removed.name):
        find_origins(module, model)
