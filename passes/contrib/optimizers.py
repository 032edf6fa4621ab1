"""The optimizers of the ONNX standard (ai.onnx.preview.training): one step on several tensors at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ..errors import InvalidModelError, describe
from ..tape import Tensor
from .expansion import TRAINING, Expansion, Fused


def adam(n: Fused) -> Sequence[Tensor]:
    """X - R √(1-βᵀ)/(1-αᵀ) V/(√H + ε), with V and H the running means of the gradient and of its square."""
    alpha, beta, epsilon = n.attr("alpha", 0.9), n.attr("beta", 0.999), n.attr("epsilon", 1e-6)
    decay, shrink = n.attr("norm_coefficient", 0.0), n.attr("norm_coefficient_post", 0.0)
    steps = n.required(1).reshape([])
    # In float64, for 1 - βᵀ is a small difference of large numbers.
    t, one = steps.cast(ir.DataType.DOUBLE), n.op.constant(1.0, ir.DataType.DOUBLE)
    corrected = n.op.Sqrt(1.0 - _power(beta, t)) / (1.0 - _power(alpha, t))
    correction = n.op.Where(steps > 0, corrected, one)

    def step(rate: Tensor, x: Tensor, g: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        g = _regularized(x, g, decay)
        v = v * alpha + g * (1.0 - alpha)
        h = h * beta + g * g * (1.0 - beta)
        x = x - rate * correction.cast(rate.dtype) * v / (n.op.Sqrt(h) + epsilon)
        return (x if shrink == 0 else x * (1.0 - shrink)), v, h

    return _each(n, 4, step)


def adagrad(n: Fused) -> Sequence[Tensor]:
    """X - R/(1 + T decay) G/(√H + ε), with H the sum of the gradient's squares."""
    epsilon, decay, slowing = n.attr("epsilon", 1e-6), n.attr("norm_coefficient", 0.0), n.attr("decay_factor", 0.0)
    steps = n.required(1).reshape([])

    def step(rate: Tensor, x: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        g = _regularized(x, g, decay)
        h = h + g * g
        return x - rate / (steps.cast(rate.dtype) * slowing + 1.0) * g / (n.op.Sqrt(h) + epsilon), h

    return _each(n, 3, step)


def momentum(n: Fused) -> Sequence[Tensor]:
    """X - R V, or X - R (G + α V) for Nesterov's, with V = α V + β G; β is 1 in the first step."""
    alpha, beta, decay = n.attr("alpha"), n.attr("beta"), n.attr("norm_coefficient")
    nesterov = n.attr("mode") == "nesterov"
    steps = n.required(1).reshape([])

    def step(rate: Tensor, x: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        g = _regularized(x, g, decay)
        share = n.op.Where(steps > 0, n.op.constant(beta, x.dtype), n.op.constant(1.0, x.dtype))
        v = v * alpha + share * g
        return x - rate * (g + v * alpha if nesterov else v), v

    return _each(n, 3, step)


def _each(n: Fused, count: int, step: Callable[..., tuple[Tensor, ...]]) -> list[Tensor]:
    """The outputs of *step* on the k-th of each of *count* groups, first all of the first group, and so on.

    The groups follow R and T: the tensors, their gradients, their states.
    """
    given = [n.required(index) for index in range(2, len(n.inputs))]
    size, rest = divmod(len(given), count)
    if rest or not given:
        raise InvalidModelError(
            f"{describe(n.node)} has {len(given)} inputs behind R and T; it takes {count} for each tensor that it steps"
        )
    steps = []
    for members in zip(*(given[start : start + size] for start in range(0, len(given), size)), strict=True):
        rate = n.required(0).reshape([]).cast(members[0].dtype)
        steps.append(step(rate, *members))
    return [tensor for group in zip(*steps, strict=True) for tensor in group]


def _regularized(x: Tensor, g: Tensor, decay: float) -> Tensor:
    """The gradient of the loss + decay/2 ‖x‖²."""
    return g if decay == 0 else x * decay + g


def _power(base: float, exponent: Tensor) -> Tensor:
    return exponent.op.Pow(exponent.op.constant(base, exponent.dtype), exponent)


EXPANSIONS: dict[tuple[str, str], Expansion] = {
    (TRAINING, "Adagrad"): adagrad,
    (TRAINING, "Adam"): adam,
    (TRAINING, "Momentum"): momentum,
}
