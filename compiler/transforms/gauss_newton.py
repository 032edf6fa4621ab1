"""The Gauss-Newton matrix of a loss, times a vector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ..load import ModelLike
from ..losses import Loss
from .derivation import Derivation, Options


def ggnvp(
    model: ModelLike,
    *,
    loss: str | Loss | ModelLike | None = None,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The generalized Gauss-Newton matrix Jᵀ H J times a vector, as a model (Schraudolph 2002).

    J is the Jacobian of the prediction, H the Hessian of the *loss* with respect to it; without a loss it is the
    identity. It has for each primal x an input `<x>.tangent` and an output `<x>.ggnvp` more. See
    `Options` for the others.

    Raises as `jvp` and `hvp` do.
    """
    derivation = Derivation(model, Options(wrt, outputs, loss, free_dims, opset, rules, to))
    tangents = {value: derivation.input_like(value, "tangent") for value in derivation.wrt}
    moved = derivation.push_forward(tangents, derivation.predictions)
    if loss is not None:
        value = derivation.scalar("ggnvp")
        gradients = derivation.pull_back({value: derivation.ones(value)}, derivation.predictions)
        moved = derivation.pull_back_gradient(gradients, moved, derivation.predictions)
    for primal, product in derivation.pull_back(moved).items():
        derivation.give(product, f"{primal.name}.ggnvp", like=primal)
    return derivation.finish()
