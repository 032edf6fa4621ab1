"""Reverse mode: the vector-Jacobian product, and the value and gradient of one output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ...passes.errors import InputError
from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ..load import ModelLike
from ..losses import Loss
from .derivation import Derivation, Options


def vjp(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    num_seeds: int | str | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The vector-Jacobian product as a model (`torch.func.vjp`, with the cotangents as inputs).

    It has an input `<y>.grad_output` more for each differentiated output y, and an output `<x>.grad` more for each
    primal x: the cotangents times the Jacobian, of the dtype and shape of x.

    Args:
        num_seeds: how many cotangents one run takes: each `<y>.grad_output` and `<x>.grad` has a first axis more, of
            that size (a name leaves it open). The forward part runs once.

    See `Options` for the others. Raises as `compile` does.
    """
    derivation = Derivation(model, Options(wrt, outputs, None, free_dims, opset, rules, to))
    if num_seeds is None:
        seeds = {value: derivation.input_like(value, "grad_output") for value in derivation.outputs}
        for primal, cotangent in derivation.pull_back(seeds).items():
            derivation.give(cotangent, f"{primal.name}.grad", like=primal)
        return derivation.finish()
    counts = isinstance(num_seeds, int) and num_seeds >= 1
    if not counts and not (isinstance(num_seeds, str) and num_seeds.isidentifier()):
        raise InputError(
            f"`num_seeds` is how many cotangents one run takes, a number or a name, and at least 1, not {num_seeds!r}"
        )
    stacks = {}
    for value in derivation.outputs:
        stack = derivation.input_like(value, "grad_output")
        stack.shape = None if value.shape is None else ir.Shape([num_seeds, *value.shape])
        stacks[value] = stack
    slices = {value: derivation.placeholder(value, "seed") for value in stacks}
    cotangents = derivation.pull_back(slices)
    of_slices = {slices[value]: stack for value, stack in stacks.items()}
    results = derivation.scan_over(of_slices, list(cotangents.values()))
    for primal, result in zip(cotangents, results, strict=True):
        derivation.give(result, f"{primal.name}.grad")
    return derivation.finish()


def value_and_grad(
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
    """The value and gradient of one output of one element, or of a *loss*, as a model (`torch.func.grad_and_value`).

    It has an output `<x>.grad` more for each primal x. See `Options` for the arguments.

    Raises as `compile` does, and InputError if the output has more than one element.
    """
    derivation = Derivation(model, Options(wrt, outputs, loss, free_dims, opset, rules, to))
    value = derivation.scalar("value_and_grad")
    for primal, gradient in derivation.pull_back({value: derivation.ones(value)}).items():
        derivation.give(gradient, f"{primal.name}.grad", like=primal)
    return derivation.finish()
