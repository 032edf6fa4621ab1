"""Which parameters of a PyTorch module an ONNX initializer was made of, so that gradients can be compared.

Exporters rename, transpose, slice and fuse parameters. Each initializer is matched by value with a function of the
module's parameters that makes it; the vector-Jacobian product of that function, taken by PyTorch, carries the
initializer's gradient back to the parameters.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Origin:
    """How an initializer is made: `make(parameters)`, reading the parameters of these names only."""

    parameters: tuple[str, ...]
    make: Callable[[Parameters], Tensor]


def find_origins(module: nn.Module, model: onnx.ModelProto) -> dict[str, Origin]:
    """Matches the float initializers of an export with the parameters of the module it was exported from.

    Returns the origin of each initializer that has one; the others are constants or BatchNormalization statistics.
    Needs the distinct values of `set_distinct_values`. A tied parameter may be the origin of several initializers.
    Raises ValueError if a parameter has no initializer, because its gradient would go unchecked.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    candidates = list(conv_bn_fusions(module))
    origins = {}
    for initializer in model.graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT:
            continue
        value = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        origin = arrangement(value, parameters) or fusion(value, parameters, candidates)
        if origin:
            origins[initializer.name] = origin
    reached = {name for origin in origins.values() for name in origin.parameters}
    if missing := parameters.keys() - reached:
        raise ValueError(f"no initializer is made of the parameters {sorted(missing)}")
    return origins


def pull_back(
    module: nn.Module, origins: Mapping[str, Origin], gradients: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Turns gradients of the initializers into float64 gradients of the module's parameters, by parameter name."""
    parameters = {name: p.detach().double().requires_grad_() for name, p in module.named_parameters()}
    made = [origin.make(parameters) for origin in origins.values()]
    cotangents = [torch.from_numpy(gradients[name]).double() for name in origins]
    pulled = torch.autograd.grad(made, list(parameters.values()), cotangents)
    return {name: gradient.numpy() for name, gradient in zip(parameters, pulled, strict=True)}


def arrangement(value: Tensor, parameters: Parameters) -> Origin | None:
    """An initializer that holds elements of one parameter, in any order: itself, transposed, or some of its rows.

    One that holds a single number, and has not the parameter's shape, is a constant that happens to occur in it.
    """
    is_constant = len(torch.unique(value)) <= 1
    for name, parameter in parameters.items():
        ordered, order = parameter.flatten().sort()
        place = torch.searchsorted(ordered, value).clamp(max=len(ordered) - 1)
        if torch.equal(ordered[place], value) and not (is_constant and value.shape != parameter.shape):
            return Origin((name,), partial(take, name, order[place]))
    return None


def take(name: str, index: Tensor, parameters: Parameters) -> Tensor:
    return parameters[name].flatten()[index]


def fusion(value: Tensor, parameters: Parameters, candidates: list[Origin]) -> Origin | None:
    """An initializer that is the kernel or the bias of a convolution with BatchNormalization multiplied in."""
    for origin in candidates:
        made = origin.make(parameters)
        # Exporters multiply in float32, in an order of their own: equal up to rounding, not in every bit.
        if made.shape == value.shape and torch.allclose(made, value, rtol=1e-5, atol=1e-6):
            return origin
    return None


def conv_bn_fusions(module: nn.Module) -> Iterator[Origin]:
    """The fused kernel and bias of every convolution with every BatchNormalization of as many channels."""
    layers = dict(module.named_modules())
    norms = {name: layer for name, layer in layers.items() if isinstance(layer, nn.BatchNorm2d)}
    for conv_name, conv in layers.items():
        if not isinstance(conv, nn.Conv2d):
            continue
        for norm_name, norm in norms.items():
            if norm.num_features == conv.out_channels:
                yield fused_kernel(f"{conv_name}.weight", norm_name, norm)
                yield fused_bias(f"{conv_name}.bias" if conv.bias is not None else None, norm_name, norm)


def fused_kernel(weight: str, norm_name: str, norm: nn.BatchNorm2d) -> Origin:
    """weight * gamma / sqrt(variance + epsilon), with gamma and variance per output channel."""
    gamma = f"{norm_name}.weight"
    _, deviation = statistics(norm)
    return Origin((weight, gamma), lambda p: p[weight] * (p[gamma] / deviation)[:, None, None, None])


def fused_bias(bias: str | None, norm_name: str, norm: nn.BatchNorm2d) -> Origin:
    """beta + (bias - mean) * gamma / sqrt(variance + epsilon)."""
    gamma, beta = f"{norm_name}.weight", f"{norm_name}.bias"
    mean, deviation = statistics(norm)
    if bias is None:
        return Origin((gamma, beta), lambda p: p[beta] - mean * p[gamma] / deviation)
    return Origin((bias, gamma, beta), lambda p: p[beta] + (p[bias] - mean) * p[gamma] / deviation)


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The running mean and standard deviation that inference normalizes with."""
    return norm.get_buffer("running_mean"), torch.sqrt(norm.get_buffer("running_var") + norm.eps)
