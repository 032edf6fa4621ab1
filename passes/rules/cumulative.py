"""Rules of the operators that accumulate along an axis: CumSum, CumProd, Range."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("CumSum", inputs=(0,))
def cumsum(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is summed cumulatively in the other direction."""
    exclusive, reverse = n.attr("exclusive", 0), n.attr("reverse", 0)
    return lambda: n.op.CumSum(dy, n.required(1), exclusive=exclusive, reverse=1 - reverse)


@rules.vjp("CumProd", inputs=(0,))
def cumprod(n: Primal, dy: Tensor) -> Cotangent:
    """dx[k] = Σ dy[i] Π x[j], over the i whose product has x[k], and the j ≠ k in that product.

    The inner product is y[i] / x[k], or where x[k] = 0 that of the nonzero factors times that of the other
    zeros: 1 if there is none, their sum if there is one (so that it has the right derivative), else 0. So the
    gradient and its derivative are exact; a third derivative is 0 where three or more factors are 0.
    """
    op, x, y, axis = n.op, n.required(0), n.outputs[0], n.required(1)
    exclusive, reverse = n.attr("exclusive", 0), n.attr("reverse", 0)
    forward = partial(op.CumSum, exclusive=exclusive, reverse=reverse)
    backward = partial(op.CumSum, exclusive=exclusive, reverse=1 - reverse)

    def cotangent() -> Tensor:
        zero, one = op.constant(0, x.dtype), op.constant(1, x.dtype)
        is_zero = x.equals(0)
        nonzero, zeros = op.Where(is_zero, one, x), op.Where(is_zero, x, zero)
        count = forward(is_zero.cast(x.dtype), axis)
        weight = dy * op.CumProd(nonzero, axis, exclusive=exclusive, reverse=reverse)
        alone, paired = op.Where(count.equals(1), weight, zero), op.Where(count.equals(2), weight, zero)
        at_zero = backward(alone + paired * forward(zeros, axis), axis) - x * backward(paired, axis)
        return op.Where(is_zero, at_zero, backward(dy * y, axis) / nonzero)

    return cotangent


@rules.vjp("Range", inputs=(0, 2))
def range_(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(start + i delta) = dstart + i ddelta; the limit decides only how many elements there are."""
    op, start, delta = n.op, n.required(0), n.required(2)

    def cotangent_delta() -> Tensor:
        zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
        steps = op.Range(zero, dy.sizes([0]).squeeze([0]), one).cast(dy.dtype)
        return (dy * steps).sum().reshape_like(delta)

    return lambda: dy.sum().reshape_like(start), None, cotangent_delta
