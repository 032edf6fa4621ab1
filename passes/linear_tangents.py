"""The tangents of a node that is linear in its inputs: the same operator, of tangents in their place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .linearity import linearity_of
from .tape import Tape, Tensor

FEW = 1 << 12
"""The most zeros that are kept as a constant."""

_BROADCASTING = frozenset("Add Mean Sub Sum Where".split())
"""Operators for which a single zero does in the place of a tensor of zeros."""


def linear_tangents(node: ir.Node, tangents: Mapping[int, Tensor], tape: Tape) -> Sequence[Tensor]:
    """Emit the tangents of the outputs of *node*.

    That of f(a, b) + c is f(da, b) + f(a, db) + dc (see `Linearity`), where dc comes with the first term.

    Args:
        tangents: of inputs by their indices, all of them named in the node's linearity.
    """
    linearity = linearity_of(node)
    assert linearity is not None
    terms = [group for group in linearity.factors if not tangents.keys().isdisjoint(group)] or linearity.factors[:1]
    added = {index: tangent for index, tangent in tangents.items() if index in linearity.addends}
    total: Sequence[Tensor] = []
    for group in terms:
        accumulates = bool(total) and _adds_its_last_input(node)
        given = {index: tangent for index, tangent in tangents.items() if index in group}
        given |= {2: total[0]} if accumulates else {} if total else added
        term = _with_tangents(node, group, linearity.addends, given, tape)
        total = [a + b for a, b in zip(total, term, strict=True)] if total and not accumulates else term
    return total


def _with_tangents(
    node: ir.Node, group: Sequence[int], addends: Collection[int], given: Mapping[int, Tensor], tape: Tape
) -> Sequence[Tensor]:
    """*node* once more, of the *given* inputs, with zeros for others of the *group*, and without *addends*."""
    inputs: list[Tensor | None] = []
    for index in range(max(len(node.inputs), *(each + 1 for each in given))):
        value = node.inputs[index] if index < len(node.inputs) else None
        if index in given or value is None:
            inputs.append(given.get(index))
        elif index in group or (index in addends and not _is_optional(node, index)):
            inputs.append(_zero(tape.tensor(value), node))
        else:
            inputs.append(None if index in addends else tape.tensor(value))
    count = len(node.outputs) if node.op_type == "Split" else 1
    attributes: dict[str, Any] = dict(node.attributes)
    results = tape.emit_many(node.op_type, *inputs, outputs=count, **attributes)
    outputs = [tape.tensor(value) for value in node.outputs[:count]]
    if node.op_type in _BROADCASTING and not given.keys() >= set(group):
        results = tuple(result.expand_like(output) for result, output in zip(results, outputs, strict=True))
    for result, output in zip(results, outputs, strict=True):
        if output.value.shape is not None:
            result.value.shape = output.value.shape.copy()
    return results


def _zero(like: Tensor, node: ir.Node) -> Tensor:
    sizes = () if node.op_type in _BROADCASTING else like.static_shape
    if sizes is None or prod(sizes) > FEW:
        return like.op.zeros_like(like)
    return like.op.constant(np.zeros(sizes), like.dtype)


def _is_optional(node: ir.Node, index: int) -> bool:
    return onnx.defs.get_schema(node.op_type).inputs[index].option == onnx.defs.OpSchema.FormalParameterOption.Optional


def _adds_its_last_input(node: ir.Node) -> bool:
    """Whether it takes the sum of the terms before as what it adds to its own."""
    return node.op_type == "Gemm" and node.attributes.get_float("beta", 1.0) == 1.0
