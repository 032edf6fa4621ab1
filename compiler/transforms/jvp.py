"""Forward mode: the Jacobian-vector product."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ..load import ModelLike
from .derivation import Derivation, Options


def jvp(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The Jacobian-vector product as a model (`torch.func.jvp`, with the tangents as inputs).

    It has an input `<x>.tangent` more for each primal x, and an output `<y>.tangent` more for each differentiated
    output y: the Jacobian times the tangents, of the dtype and shape of y. See `Options` for the arguments.

    Raises as `compile` does, and UnsupportedError if no output depends smoothly on a primal.
    """
    derivation = Derivation(model, Options(wrt, outputs, None, free_dims, opset, rules, to))
    tangents = {value: derivation.input_like(value, "tangent") for value in derivation.wrt}
    for value, tangent in derivation.push_forward(tangents, derivation.outputs).items():
        derivation.give(tangent, f"{value.name}.tangent", like=value)
    return derivation.finish()
