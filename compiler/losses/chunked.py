"""A loss over the rows of a product of matrices, computed in chunks of rows, so that the product never exists whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir

from ...passes.blocks import in_blocks
from ...passes.errors import InputError
from ...passes.memory_of_values import VIEWS
from ...passes.tape import Tape, Tensor

LossOfRows = Callable[[Tensor, Tensor], Tensor]
"""From scores [rows, C] and labels [rows] to losses [rows]."""


class ScoreProduct(NamedTuple):
    """hidden · weight + bias, the last product of a model: [N, H] · [H, C] + [C]."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    transposed: bool
    """Whether the weight is [C, H]."""
    attributes: dict[str, Any]
    """Of the Gemm, empty for a MatMul."""

    @property
    def classes(self) -> Tensor:
        """C, as 1-D int64."""
        return self.weight.sizes([0 if self.transposed else 1])

    def of_rows(self, rows: Tensor) -> Tensor:
        """The scores of some rows of `hidden`."""
        body = rows.op
        weight, bias = body.tensor(self.weight.value), None if self.bias is None else body.tensor(self.bias.value)
        if self.attributes:
            return body.emit("Gemm", rows, weight, bias, **self.attributes)
        scores = rows @ weight
        return scores if bias is None else scores + bias


def find_score_product(prediction: Tensor) -> ScoreProduct:
    """The product that *prediction*, scores [N, C], is the result of: a Gemm, or a MatMul with or without an Add.

    Raises InputError where it is none, or its rows cannot be told apart.
    """
    found = _find(prediction) if prediction.rank == 2 else None
    if found is None or not isinstance(found.hidden.shape[-1], int) or found.weight.rank != 2:
        raise InputError(
            f"`chunk` computes the last product of the model together with the loss; {prediction.value.name!r} "
            f"{list(prediction.shape)} is not scores [N, C] straight from a MatMul or Gemm with a matrix of weights. "
            "Leave `chunk` out, or name such an output with `outputs`"
        )
    return found._replace(hidden=found.hidden.reshape([-1, found.hidden.shape[-1]]))


def losses_in_chunks(op: Tape, product: ScoreProduct, label: Tensor, chunk: int, losses: LossOfRows) -> Tensor:
    """The losses [N] of all rows, *chunk* of them at a time; the scores of a chunk are computed again backwards."""

    def compute(body: Tape, parts: Sequence[Tensor]) -> Tensor:
        labels, rows = parts
        return losses(product.of_rows(rows), labels)

    known = label.shape[0]
    chunk = min(chunk, known) if isinstance(known, int) and known else chunk
    return in_blocks(op, chunk, [(label, -1), (product.hidden, -2)], compute, -1)


def _find(prediction: Tensor) -> ScoreProduct | None:
    op, value, bias = prediction.op, _seen_through(prediction.value), None
    node = value.producer()
    if node is not None and node.op_type == "Add" and node.domain == "":
        for term, other in (node.inputs, reversed(node.inputs)):
            product = None if term is None else _seen_through(term).producer()
            if product is not None and product.op_type == "MatMul" and other is not None and _is_row(other):
                node, bias = product, op.tensor(other)
                break
    if node is None or node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
        return None
    hidden, weight, *added = (None if each is None else op.tensor(each) for each in node.inputs)
    assert hidden is not None
    assert weight is not None
    if node.op_type == "MatMul":
        return ScoreProduct(hidden, weight, bias, transposed=False, attributes={})
    for each in added:
        bias = each if each is not None and _is_row(each.value) else None
        if each is not None and bias is None:
            return None
    if node.attributes.get_int("transA", 0):
        return None
    transposed = bool(node.attributes.get_int("transB", 0))
    attributes = {"transA": ir.AttrInt64("transA", 0), **node.attributes}
    return ScoreProduct(hidden, weight, bias, transposed, attributes)


def _seen_through(value: ir.Value) -> ir.Value:
    """The value that *value* is a view of, with the same last axis."""
    while (node := value.producer()) is not None and node.domain == "" and node.op_type in VIEWS:
        source = node.inputs[0]
        if source is None or not source.shape or not value.shape or source.shape[-1] != value.shape[-1]:
            break
        value = source
    return value


def _is_row(value: ir.Value) -> bool:
    """Whether all rows have the same *value* added."""
    return value.shape is not None and all(dim == 1 for dim in value.shape[:-1])
