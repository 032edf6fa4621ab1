"""Second order: the Hessian of one output, dense or times a vector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ..load import ModelLike
from ..losses import Loss
from .derivation import Derivation, Options
from .jacobian import rows


def hvp(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    loss: str | Loss | ModelLike | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The Hessian of one output of one element, or of a *loss*, times a vector, as a model.

    It has for each primal x an input `<x>.tangent` and the outputs `<x>.grad`, the gradient, and `<x>.hvp`: the rows of
    the Hessian that belong to x, times all tangents. The vector-Jacobian product of the gradient gives it, for the
    Hessian is symmetric (Pearlmutter 1994 has the other order). See `Options` for the arguments.

    Raises as `compile` does, and UnsupportedError if the gradient depends on no primal.
    """
    derivation = Derivation(model, Options(wrt, outputs, loss, free_dims, opset, rules, to))
    value = derivation.scalar("hvp")
    gradients = derivation.pull_back({value: derivation.ones(value)})
    tangents = {primal: derivation.input_like(primal, "tangent") for primal in gradients}
    products = derivation.pull_back_gradient(gradients, tangents)
    for primal, gradient in gradients.items():
        derivation.give(gradient, f"{primal.name}.grad", like=primal)
    for primal in gradients:
        derivation.give(products[primal], f"{primal.name}.hvp", like=primal)
    return derivation.finish()


def hessian(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    loss: str | Loss | ModelLike | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The dense Hessian of one output of one element, or of a *loss*, as a model (`torch.func.hessian`).

    It has for each two primals a and b an output `<a>.hessian.<b>`, of the shape of a followed by that of b. The
    forward and the backward part run once; what depends on the row runs once for each element of a.

    See `Options` for the arguments. Raises as `hvp` does.
    """
    derivation = Derivation(model, Options(wrt, outputs, loss, free_dims, opset, rules, to))
    value = derivation.scalar("hessian")
    gradients = derivation.pull_back({value: derivation.ones(value)})
    for primal, gradient in gradients.items():
        for other, block in rows(derivation, gradient, list(gradients)).items():
            derivation.give(block, f"{primal.name}.hessian.{other.name}")
    return derivation.finish()
