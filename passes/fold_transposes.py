"""Transposed matrices are read as such by the product itself."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .element_types import FLOATS
from .rewriting import RewritePass, Rewriter, RewriteRule, int_attribute, produced_by, read_once


class FoldTransposes(RewritePass):
    """Fold the Transpose of a matrix into the `transA` and `transB` of a Gemm.

    A transposed operand of a Gemm flips its flag; a MatMul of two matrices with a transposed operand becomes a
    Gemm; the Transpose of a product that nothing else reads becomes the product of the transposed operands in
    the other order.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: only floating-point products change, and by no more than the order of summation in the runtime's
    own kernels. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return FOLDS


def gemm(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    a, flip_a = _untransposed(node.inputs[0])
    b, flip_b = _untransposed(node.inputs[1])
    if not flip_a and not flip_b:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes["transA"] = int_attribute(node, "transA", 0) ^ flip_a
    attributes["transB"] = int_attribute(node, "transB", 0) ^ flip_b
    return rewriter.emit("Gemm", a, b, *node.inputs[2:], **attributes)


def matmul(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    if not all(_is_float_matrix(value) for value in node.inputs):
        return None
    a, flip_a = _untransposed(node.inputs[0])
    b, flip_b = _untransposed(node.inputs[1])
    return rewriter.emit("Gemm", a, b, transA=flip_a, transB=flip_b) if flip_a or flip_b else None


def transposed_product(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    _, is_matrix_transpose = _untransposed(node.outputs[0])
    product = produced_by(node.inputs[0], "Gemm", "MatMul")
    if not is_matrix_transpose or product is None or not read_once(product.outputs[0]):
        return None
    if product.outputs[0].name in rewriter.protected or any(value is not None for value in product.inputs[2:]):
        return None
    a, b = product.inputs[:2]
    if not _is_float_matrix(a) or not _is_float_matrix(b):
        return None
    alpha = product.attributes.get("alpha")
    return rewriter.emit(
        "Gemm",
        b,
        a,
        alpha=1.0 if alpha is None else alpha.as_float(),
        transA=1 - int_attribute(product, "transB", 0),
        transB=1 - int_attribute(product, "transA", 0),
    )


def _untransposed(value: ir.Value | None) -> tuple[ir.Value | None, int]:
    """The matrix of which *value* is the transpose, and 1; *value* itself and 0 if it is not a transpose."""
    node = produced_by(value, "Transpose")
    if node is None or value is None or value.shape is None or len(value.shape) != 2:
        return value, 0
    perm = node.attributes.get("perm")
    return (node.inputs[0], 1) if perm is None or list(perm.as_ints()) == [1, 0] else (value, 0)


def _is_float_matrix(value: ir.Value | None) -> bool:
    """Whether Gemm takes *value*, which the runtimes' kernels do for floats only."""
    if value is None or value.shape is None or value.dtype is None:
        return False
    return len(value.shape) == 2 and value.dtype in FLOATS


FOLDS: dict[str, RewriteRule] = {"Gemm": gemm, "MatMul": matmul, "Transpose": transposed_product}
