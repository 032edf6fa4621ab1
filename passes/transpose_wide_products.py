"""The product of a wide matrix, transposed, for the processor's kernels: it is read as it lies."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, int_attribute
from .waits import only_waits

_WIDE = 16_384
"""Columns from which it pays: ONNX Runtime (1.31, AVX-512) then takes 1.05 to 1.4 times as long to read columns."""


class TransposeWideProducts(RewritePass):
    """Compute AᵀB as (BᵀA)ᵀ where A has very many columns.

    Such is the gradient of the weight that makes a large vocabulary's scores, and A the cotangent of the scores.
    ONNX Runtime's kernel transposes what it multiplies from the left by small pieces, once for each 128 columns of B,
    and the rows of A are so far apart that each piece is a miss. From the right it takes A row by row.

    What comes out is for a session on a processor, not for a file: one operator becomes four.

    Requires: shapes inferred.
    Guarantees: values change by rounding only, and keep their names; what a product is added to is read by the node
    that gives the sum, as it was (`may_alias`).
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return {"Gemm": _transposed_twice}


def _transposed_twice(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    a, b, *added = node.inputs
    if a is None or b is None or a.dtype != ir.DataType.FLOAT or not _is_plain(node):
        return None
    columns = a.shape[1] if a.shape is not None else None
    if not int_attribute(node, "transA", 0) or not isinstance(columns, int) or columns < _WIDE:
        return None
    if not int_attribute(node, "transB", 0):
        b = rewriter.emit("Transpose", b, perm=[1, 0])
    # Of a Gemm the runtime would take the transposition back.
    transposed = rewriter.emit("MatMul", b, a)
    for reader, index in tuple(node.outputs[0].uses()):
        if only_waits(reader):  # so that A is free before there is another value of the product's size
            reader.replace_input_with(index, transposed)
            reader.outputs[0].shape = ir.Shape([0, columns])
    product = rewriter.emit("Transpose", transposed, perm=[1, 0])
    return rewriter.emit("Add", added[0], product) if added and added[0] is not None else product


def _is_plain(node: ir.Node) -> bool:
    """Whether *node* multiplies by no number."""
    return all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
