"""Rules of the activation functions."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .masking import unless_masked

rules = Registry()


@rules.vjp("Relu")
def relu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = 0 where y ≤ 0, else dy; the derivative at 0 is 0."""
    return lambda: unless_masked(dy, n.outputs[0] <= 0)


@rules.vjp("LeakyRelu")
def leaky_relu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where x > 0, else alpha dy."""
    op, alpha = n.op, n.attr("alpha", 0.01)

    def cotangent() -> Tensor:
        positive = _positive(n, alpha)
        if 0 < alpha < 1:  # a Where takes ONNX Runtime twice as long
            return dy * op.Max(positive.cast(dy.dtype), op.constant(alpha, dy.dtype))
        return op.Where(positive, dy, dy * alpha)

    return cotangent


@rules.vjp("PRelu", broadcasts=True)
def prelu(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """dx = dy where x > 0, else slope dy; dslope = 0 where x > 0, else x dy."""
    op, x, slope = n.op, n.required(0), n.required(1)
    positive = x > 0
    return (
        lambda: op.Where(positive, dy, dy * slope),
        lambda: dy * op.Where(positive, op.constant(0, x.dtype), x),
    )


@rules.vjp("ThresholdedRelu")
def thresholded_relu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where x > alpha, else 0."""
    alpha = n.attr("alpha", 1.0)
    return lambda: n.op.Where(n.required(0) > alpha, dy, n.op.constant(0, dy.dtype))


@rules.vjp("Shrink")
def shrink(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where |x| > lambd, else 0."""
    op, x, bound = n.op, n.required(0), n.attr("lambd", 0.5)
    return lambda: op.Where(op.Abs(x) > bound, dy, op.constant(0, dy.dtype))


@rules.vjp("Elu")
def elu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where x > 0, else alpha eˣ dy = (y + alpha) dy."""
    alpha = n.attr("alpha", 1.0)
    return lambda: n.op.Where(_positive(n, alpha), dy, dy * (n.outputs[0] + alpha))


@rules.vjp("Selu")
def selu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = gamma dy where x > 0, else gamma alpha eˣ dy = (y + gamma alpha) dy."""
    alpha, gamma = n.attr("alpha", 1.67326319217681884765625), n.attr("gamma", 1.05070102214813232421875)
    return lambda: n.op.Where(_positive(n, min(alpha, gamma)), dy * gamma, dy * (n.outputs[0] + alpha * gamma))


@rules.vjp("Celu")
def celu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where x > 0, else exp(x / alpha) dy = (y / alpha + 1) dy."""
    y = n.outputs[0]
    return lambda: n.op.Where(y > 0, dy, dy * (y * (1 / n.attr("alpha", 1.0)) + 1))


@rules.vjp("HardSigmoid")
def hard_sigmoid(n: Primal, dy: Tensor) -> Cotangent:
    """dx = alpha dy where 0 < y < 1, else 0; at the corners 0 (as in PyTorch)."""
    op, y = n.op, n.outputs[0]
    return lambda: op.Where(op.And(y > 0, y < 1), dy * n.attr("alpha", 0.2), op.constant(0, dy.dtype))


@rules.vjp("HardSwish")
def hard_swish(n: Primal, dy: Tensor) -> Cotangent:
    """dx = 0 where x ≤ -3, dy where x ≥ 3, else (x / 3 + 1/2) dy (the corners as in PyTorch)."""
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        slope = dy * (x * (1 / 3) + 0.5)
        return op.Where(x < 3, op.Where(x > -3, slope, op.constant(0, dy.dtype)), dy)

    return cotangent


@rules.vjp("Sigmoid")
def sigmoid(n: Primal, dy: Tensor) -> Cotangent:
    """dx = y (1 - y) dy."""
    y = n.outputs[0]
    return lambda: dy * y * (1 - y)


@rules.vjp("Tanh")
def tanh(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (1 - y²) dy."""
    y = n.outputs[0]
    return lambda: dy * (1 - y * y)


@rules.vjp("Softplus")
def softplus(n: Primal, dy: Tensor) -> Cotangent:
    """dx = sigmoid(x) dy."""
    return lambda: dy * n.op.Sigmoid(n.required(0))


@rules.vjp("Softsign")
def softsign(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy / (1 + |x|)²; divided twice, as the square overflows in float16 from 255 on."""

    def cotangent() -> Tensor:
        width = n.op.Abs(n.required(0)) + 1
        return dy / width / width

    return cotangent


@rules.vjp("Gelu")
def gelu(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (Φ(x) + x φ(x)) dy, of the normal distribution; see `_tanh_gelu_slope` for approximate="tanh".

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if n.attr("approximate", "none") == "tanh":
        return lambda: dy * _tanh_gelu_slope(n)

    def cotangent() -> Tensor:
        op = n.op
        scaled = n.required(0) * math.sqrt(0.5)
        # Twice the slope: halving dy instead can be left to the product that dy comes from.
        distribution = op.Erf(scaled) + 1
        density = op.Exp(math.log(2 / math.sqrt(math.pi)) - scaled * scaled)
        return (dy * 0.5) * (distribution + scaled * density)

    return cotangent


def _tanh_gelu_slope(n: Primal) -> Tensor:
    """s + y (1 - s) u' for y = x s, s = sigmoid(u), u = √(8/π) (x + 0.044715 x³): the tanh form, without tanh."""
    x, y = n.required(0), n.outputs[0]
    if x.dtype == ir.DataType.FLOAT16:
        # The slope is constant out there, and x² would overflow.
        x = n.op.Clip(x, n.op.constant(-10, x.dtype), n.op.constant(10, x.dtype))
    linear = math.sqrt(8 / math.pi)
    cubic = linear * 0.044715
    square = x * x
    gate = n.op.Sigmoid(x * (square * cubic + linear))
    return gate + y * (1 - gate) * (square * (3 * cubic) + linear)


@rules.vjp("Swish")
def swish(n: Primal, dy: Tensor) -> Cotangent:
    """dx = s (1 + alpha x (1 - s)) dy for s = sigmoid(alpha x).

    The output, which tells the same, is larger to keep: what x is made of often is there, or the output follows from x.
    """
    x = n.required(0)
    alpha: float = n.attr("alpha", 1.0)

    def cotangent() -> Tensor:
        scaled = x if alpha == 1 else x * alpha
        gate = n.op.Sigmoid(scaled)
        return dy * (gate * (1 + scaled * (1 - gate)))

    return cotangent


@rules.vjp("Mish")
def mish(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (t + x s (1 - t²)) dy for t = tanh(softplus(x)), s = sigmoid(x)."""
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        gate = op.Tanh(op.Softplus(x))
        return dy * (gate + x * op.Sigmoid(x) * (1 - gate * gate))

    return cotangent


def _positive(n: Primal, negative_slope: float) -> Tensor:
    """Where x > 0; read from the output, which is kept anyway, if that has the same sign."""
    return (n.outputs[0] if negative_slope >= 0 else n.required(0)) > 0
