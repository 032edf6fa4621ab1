"""The oracle for the zoo's gradients: PyTorch autograd in float64, and its own error in float32."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .catalogue import Architecture, Inputs

Gradients = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """What PyTorch computes for one architecture and one batch: all float64, but the seed's values are float32's."""

    module: nn.Module
    inputs: Inputs
    output: np.ndarray
    seed: np.ndarray
    gradients: Gradients
    own_errors: dict[str, float]
    """The relative error of PyTorch's float32 gradients, by parameter name."""

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.inputs.items()}

    def errors(self, gradients: Mapping[str, np.ndarray]) -> dict[str, float]:
        return relative_errors(gradients, self.gradients)


def reference(architecture: Architecture, batch: int) -> Reference:
    """Differentiates the architecture's output along a random seed with respect to every parameter."""
    module, inputs = architecture.build(), architecture.example(batch)
    exact = copy.deepcopy(module).double()
    inputs64 = {name: v.double() if v.is_floating_point() else v for name, v in inputs.items()}
    output = exact(*inputs64.values())
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(batch))
    gradients = differentiate(exact, output, seed.double())
    in_float32 = differentiate(module, module(*inputs.values()), seed)
    return Reference(
        module, inputs, output.detach().numpy(), seed.numpy(), gradients, relative_errors(in_float32, gradients)
    )


def differentiate(module: nn.Module, output: torch.Tensor, seed: torch.Tensor) -> Gradients:
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(output, list(parameters.values()), seed)
    return {name: gradient.numpy() for name, gradient in zip(parameters, gradients, strict=True)}


def relative_errors(actual: Mapping[str, np.ndarray], expected: Gradients) -> dict[str, float]:
    """The error's norm over the gradient's, by parameter name.

    Some gradients vanish because their terms cancel: softmax does not see a key's bias. In float32 a rest stays that
    has the size of what cancelled, so their errors are relative to a hundredth of the model's largest gradient.
    """
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in expected.items()}
    largest = max(norms.values())
    scales = {name: norm if norm > 1e-9 * largest else 1e-2 * largest for name, norm in norms.items()}
    return {n: float(np.linalg.norm(actual[n] - gradient)) / scales[n] for n, gradient in expected.items()}


def is_zero(parameter: str) -> bool:
    """Whether the gradient is zero but for rounding: a key's bias adds the same to all scores of a softmax."""
    return parameter.endswith("key.bias")
