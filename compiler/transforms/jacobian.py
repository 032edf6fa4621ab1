"""The dense Jacobian, row by row or column by column."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ...passes.tape import Tensor
from ..load import ModelLike
from .derivation import Derivation, Options


def jacobian(
    model: ModelLike,
    *,
    wrt: str | Sequence[str] = "inputs",
    outputs: str | Sequence[str] | None = None,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """The dense Jacobian as a model (`torch.func.jacrev` and `jacfwd`).

    It has for each differentiated output y and each primal x an output `<y>.jacobian.<x>`, of the shape of y followed
    by that of x. It is computed by rows, or by columns where x is known to have fewer elements than y; the forward part
    runs once. See `Options` for the arguments.

    Raises as `compile` does.
    """
    derivation = Derivation(model, Options(wrt, outputs, None, free_dims, opset, rules, to))
    for value in derivation.outputs:
        narrow = [primal for primal in derivation.wrt if _size(primal) < _size(value)]
        wide = [primal for primal in derivation.wrt if primal not in narrow]
        blocks = {primal: _columns(derivation, value, primal) for primal in narrow}
        if wide:
            blocks |= rows(derivation, value, wide)
        for primal, block in blocks.items():
            derivation.give(block, f"{value.name}.jacobian.{primal.name}")
    return derivation.finish()


def rows(derivation: Derivation, value: ir.Value, wrt: Sequence[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Append for each of *wrt* the Jacobian of *value*, of the shape of *value* followed by its own."""
    seed = derivation.placeholder(value, "seed")
    cotangents = derivation.pull_back({value: seed}, wrt, zeros=True)
    stacks = derivation.scan_over({seed: _unit_vectors(derivation, value)}, list(cotangents.values()))
    tensor = derivation.tape.tensor
    return {
        primal: _reshape(tensor(stack), tensor(value), tensor(primal))
        for primal, stack in zip(cotangents, stacks, strict=True)
    }


def _columns(derivation: Derivation, value: ir.Value, primal: ir.Value) -> ir.Value:
    """Append the Jacobian of *value* with respect to *primal*, in forward mode."""
    tangent = derivation.placeholder(primal, "direction")
    pushed = derivation.push_forward({primal: tangent}, [value])
    (stack,) = derivation.scan_over({tangent: _unit_vectors(derivation, primal)}, [pushed[value]])
    op = derivation.tape
    by_column = op.Flatten(op.tensor(stack), axis=1)
    return _reshape(by_column.transpose([1, 0]), op.tensor(value), op.tensor(primal))


def _unit_vectors(derivation: Derivation, value: ir.Value) -> ir.Value:
    """For each element of *value* a tensor of its shape that is 1 there and 0 elsewhere."""
    op = derivation.tape
    like = op.tensor(value)
    count = like.count(dtype=ir.DataType.INT64).reshape([1])
    square = op.Expand(op.constant(0, like.dtype), op.Concat(count, count, axis=0))
    size = _size(value)
    if size < math.inf:
        square.value.shape = ir.Shape([int(size), int(size)])
    stack = op.Reshape(op.EyeLike(square), op.Concat(count, like.sizes(), axis=0), allowzero=1)
    stack.value.shape = ir.Shape([int(size) if size < math.inf else None, *(value.shape or ())])
    return stack.value


def _reshape(matrix: Tensor, value: Tensor, primal: Tensor) -> ir.Value:
    reshaped = matrix.reshape(matrix.op.Concat(value.sizes(), primal.sizes(), axis=0))
    reshaped.value.shape = ir.Shape([*(value.value.shape or ()), *(primal.value.shape or ())])
    return reshaped.value


def _size(value: ir.Value) -> float:
    """The number of elements; infinite where it is not known."""
    return math.inf if value.shape is None or not value.shape.is_static() else math.prod(value.shape.numpy())
