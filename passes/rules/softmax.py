"""Rules of Softmax and LogSoftmax."""

from __future__ import annotations

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Softmax")
def softmax(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (dy - Σ dy y) y, summed along the axis.

    y is NaN all along where x is -inf all along, as in a row of attention that is masked entirely. A model that puts
    other values in the place of those has a gradient there, which is 0: then these y count as 0.
    """
    op, axis = n.op, n.axis(-1)

    def cotangent() -> Tensor:
        y = n.outputs[0]
        if _is_guarded(y.value):
            y = op.Where(op.IsNaN(y), op.constant(0, y.dtype), y)
        return (dy - (dy * y).sum([axis], keepdims=True)) * y

    return cotangent


@rules.vjp("LogSoftmax")
def log_softmax(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy - eʸ Σ dy, summed along the axis."""
    y, axis = n.outputs[0], n.axis(-1)
    return lambda: dy - n.op.Exp(y) * dy.sum([axis], keepdims=True)


def _is_guarded(probabilities: ir.Value) -> bool:
    """Whether the model looks for NaNs in *probabilities*, or selects between them and something else."""
    for node, index in probabilities.uses():
        if node.op_type == "IsNaN" or (node.op_type == "Where" and index > 0):
            return True
        if node.op_type in ("Cast", "CastLike", "Identity") and _is_guarded(node.outputs[0]):
            return True
    return False
