"""Decomposed Swish activations become the one operator, whose rule is lean."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, produced_by


class RaiseSwish(RewritePass):
    """Raise `x sigmoid(x)` to Swish (arXiv:1710.05941), also known as SiLU; `WriteInParts` is the inverse.

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values do not change. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def swish(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    left, right = node.inputs
    for x, gate in ((left, right), (right, left)):
        sigmoid = produced_by(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x and x is not None and x.dtype in _TYPES:
            return rewriter.emit("Swish", x)
    return None


_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
PATTERN: dict[str, RewriteRule] = {"Mul": swish}
