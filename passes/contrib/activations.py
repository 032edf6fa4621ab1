"""Activations, alone or with a bias: Gelu and its approximations, and those that are attributes of fused products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..tape import Tensor
from .expansion import Fused, of_microsoft

_PARAMETERS: Mapping[str, Sequence[str]] = {
    "Celu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
"""The activations that are standard operators, and the names of their parameters in the order in which they come."""


def is_known(activation: str) -> bool:
    """Whether `activated` can apply the *activation* that a fused node names; "" is none."""
    return activation in ("", "Clip", "Silu", *_PARAMETERS)


def activated(x: Tensor, activation: str, parameters: Mapping[str, float] | Sequence[float]) -> Tensor:
    """*x* through the known *activation*.

    Args:
        parameters: of the activation, by name or in order.
    """
    op = x.op
    if activation == "":
        return x
    if activation == "Silu":
        return x * op.Sigmoid(x)
    if activation == "Clip":
        low, high = parameters.values() if isinstance(parameters, Mapping) else parameters
        return op.Clip(x, op.like(x, float(low)), op.like(x, float(high)))
    names = _PARAMETERS[activation]
    given = parameters if isinstance(parameters, Mapping) else dict(zip(names, parameters, strict=True))
    attributes: dict[str, Any] = {name: float(given[name]) for name in names if name in given}
    return op.emit(activation, x, **attributes)


def gelu(n: Fused) -> Tensor:
    """Gelu(x)"""
    return n.op.Gelu(n.required(0), approximate="none")


def bias_gelu(n: Fused) -> Tensor:
    """Gelu(x + bias)"""
    return n.op.Gelu(n.required(0) + n.required(1), approximate="none")


def fast_gelu(n: Fused) -> Tensor:
    """Gelu(x + bias) by its approximation with tanh"""
    x, bias = n.required(0), n.input(1)
    return n.op.Gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(n: Fused) -> Tensor:
    """x sigmoid(alpha x)"""
    x, alpha = n.required(0), float(n.attr("alpha", 1.702))
    return x * n.op.Sigmoid(x if alpha == 1 else x * alpha)


def bias_split_gelu(n: Fused) -> Tensor:
    """l Gelu(r), where l and r are the halves of x + bias along the last axis"""
    halves = n.op.emit_many("Split", n.required(0) + n.required(1), outputs=2, axis=-1, num_outputs=2)
    return halves[0] * n.op.Gelu(halves[1], approximate="none")


def bias_add(n: Fused) -> Tensor:
    """x + bias + skip"""
    return n.required(0) + n.required(1) + n.required(2)


EXPANSIONS = of_microsoft(
    {
        "BiasAdd": bias_add,
        "BiasGelu": bias_gelu,
        "BiasSplitGelu": bias_split_gelu,
        "FastGelu": fast_gelu,
        "Gelu": gelu,
        "QuickGelu": quick_gelu,
    }
)
