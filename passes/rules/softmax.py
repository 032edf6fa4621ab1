"""Rules of Softmax and LogSoftmax."""

from __future__ import annotations

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Softmax")
def softmax(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (dy - Σ dy y) y, summed along the axis."""
    y, axis = n.outputs[0], n.axis(-1)
    return lambda: (dy - (dy * y).sum([axis], keepdims=True)) * y


@rules.vjp("LogSoftmax")
def log_softmax(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy - eʸ Σ dy, summed along the axis."""
    y, axis = n.outputs[0], n.axis(-1)
    return lambda: dy - n.op.Exp(y) * dy.sum([axis], keepdims=True)
