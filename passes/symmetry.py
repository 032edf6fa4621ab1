"""Which operators have a symmetric Jacobian: what their VJP rule makes of a tangent is the tangent of the output."""

from __future__ import annotations

import onnx_ir as ir

from .rewriting import have_same_shape

_ELEMENTWISE = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh Celu Clip Cos Cosh Div Dropout Elu Erf Exp Gelu HardSigmoid HardSwish "
    "LeakyRelu Log Max Min Mish Mod PRelu Pow Reciprocal Relu Selu Shrink Sigmoid Sin Sinh Softplus Softsign Sqrt "
    "Swish Tan Tanh ThresholdedRelu".split()
)
"""Diagonal, with respect to an input that is not broadcast."""

_WITHIN_ROWS = frozenset(["Softmax"])
"""Symmetric: diag(y) - y yᵀ."""


def is_symmetric(node: ir.Node, index: int) -> bool:
    """Whether the Jacobian of the only float output of the standard operator *node* is, for the input at *index*."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _ELEMENTWISE | _WITHIN_ROWS:
        return False
    return len(node.inputs) == 1 or have_same_shape(node.inputs[index], node.outputs[0])
