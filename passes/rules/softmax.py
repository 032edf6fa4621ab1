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
        return (dy - (_products_with_values(y, dy, axis) or dy * y).sum([axis], keepdims=True)) * y

    return cotangent


@rules.vjp("LogSoftmax")
def log_softmax(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy - eʸ Σ dy, summed along the axis."""
    y, axis = n.outputs[0], n.axis(-1)
    return lambda: dy - n.op.Exp(y) * dy.sum([axis], keepdims=True)


def _products_with_values(y: Tensor, dy: Tensor, axis: int) -> Tensor | None:
    """Factors with the same sum along the last axis as dy * y, where y is multiplied by a narrow matrix V alone.

    Then dy is dZ Vᵀ of Z = y V, and Σ dy y = Σ dZ Z (Dao et al., "FlashAttention", 2022, appendix B).
    """
    product, back = next(iter(y.value.consumers()), None), dy.value.producer()
    if product is None or back is None or len(y.value.uses()) > 1 or axis != y.rank - 1:
        return None
    if {product.op_type, back.op_type} != {"MatMul"} or product.inputs[0] is not y.value or back.inputs[0] is None:
        return None
    z, dz = y.op.tensor(product.outputs[0]), dy.op.tensor(back.inputs[0])
    wide, narrow = y.shape[-1], z.shape[-1]
    if z.shape != dz.shape or not isinstance(wide, int) or not isinstance(narrow, int) or wide < 4 * narrow:
        return None
    return dz * z


def _is_guarded(probabilities: ir.Value) -> bool:
    """Whether the model looks for NaNs in *probabilities*, or selects between them and something else."""
    for node, index in probabilities.uses():
        if node.op_type == "IsNaN" or (node.op_type == "Where" and index > 0):
            return True
        if node.op_type in ("Cast", "CastLike", "Identity") and _is_guarded(node.outputs[0]):
            return True
    return False
