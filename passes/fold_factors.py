"""Constant factors are applied by the product itself."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, have_same_shape, produced_by, read_once

_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


class FoldFactors(RewritePass):
    """Fold a constant factor of the product of a Gemm, also of a reshaped one, into its `alpha`: `c (A B) = (c A B)`.

    The Gemm must have no third operand, and nothing else may read what lies between.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return FOLDS


def scaled_product(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    left, right = node.inputs
    for number, product in ((rewriter.scalar(right), left), (rewriter.scalar(left), right)):
        if isinstance(number, float) and have_same_shape(product, node.outputs[0]):
            return _scaled(rewriter, product, number)
    return None


def _scaled(rewriter: Rewriter, value: ir.Value | None, factor: float) -> ir.Value | None:
    """*factor* times *value*, if that is a product that nothing else reads, or a view of one."""
    node = produced_by(value, "Gemm", *_VIEWS)
    if value is None or node is None or not read_once(value) or value.name in rewriter.protected:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    if node.op_type in _VIEWS:
        source = _scaled(rewriter, node.inputs[0], factor)
        return None if source is None else rewriter.emit(node.op_type, source, *node.inputs[1:], **attributes)
    if any(operand is not None for operand in node.inputs[2:]) or value.dtype is None:
        return None
    limits = ml_dtypes.finfo(value.dtype.numpy())  # type: ignore[no-untyped-call]
    alpha = factor * attributes.get("alpha", 1.0)
    if not float(limits.tiny) <= abs(alpha) <= float(limits.max):
        return None
    return rewriter.emit("Gemm", *node.inputs[:2], **{**attributes, "alpha": alpha})


FOLDS: dict[str, RewriteRule] = {"Mul": scaled_product}
