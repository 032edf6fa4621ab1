"""Rules of the elementary functions: powers, exponentials, trigonometric and hyperbolic functions."""

from __future__ import annotations

import math

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Abs")
def abs_(n: Primal, dy: Tensor) -> Cotangent:
    """d|x| = sign(x) dx, with 0 at 0."""
    return lambda: dy * n.op.Sign(n.required(0))


@rules.vjp("Reciprocal", singular=True)
def reciprocal(n: Primal, dy: Tensor) -> Cotangent:
    """d(1 / x) = -y² dx."""
    y = n.outputs[0]
    return lambda: -(dy * y * y)


@rules.vjp("Sqrt", singular=True)
def sqrt(n: Primal, dy: Tensor) -> Cotangent:
    """d√x = dx / (2 y), infinite at 0."""
    return lambda: dy * 0.5 / n.outputs[0]


@rules.vjp("Exp")
def exp(n: Primal, dy: Tensor) -> Cotangent:
    """d(eˣ) = y dx."""
    return lambda: dy * n.outputs[0]


@rules.vjp("Log", singular=True)
def log(n: Primal, dy: Tensor) -> Cotangent:
    """d(ln x) = dx / x."""
    return lambda: dy / n.required(0)


@rules.vjp("Pow", broadcasts=True, singular=True)
def pow_(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(xᵖ) = p xᵖ⁻¹ dx + y ln(x) dp.

    As in PyTorch, the derivative in x is 0 where p = 0, and that in p is 0 where x = 0 and p ≥ 0. For x < 0 the
    derivative in p is NaN. Both factors are finite there, so second derivatives are, too. The exponent may be
    of another type than the base.
    """
    x, p, y = n.required(0), n.required(1), n.outputs[0]

    def cotangent_p() -> Tensor:
        op = n.op
        flat = op.And(x.equals(0), p >= 0)
        return dy * (y * op.Log(op.Where(flat, op.constant(1, x.dtype), x)))

    return lambda: _power_cotangent(n, dy), cotangent_p


def _power_cotangent(n: Primal, dy: Tensor) -> Tensor | None:
    op, x, p, y = n.op, n.required(0), n.required(1), n.outputs[0]
    known = p.constant
    if known is None or (known.size > 1 and (known == 0).any()):
        p = p.cast(x.dtype)
        flat = op.And(x.equals(0), p.equals(0))
        return dy * (p * x ** op.Where(flat, op.constant(0, x.dtype), p - 1))
    if known.size != 1:
        return dy * (op.constant(known, x.dtype) * x ** op.constant(known - 1, x.dtype))
    power = float(known.item())
    if power == 0:
        return None
    if power == 0.5:
        return dy * 0.5 / y
    if power == 1:
        return dy
    return dy * (x * power if power == 2 else x ** (power - 1) * power)


@rules.vjp("Erf")
def erf(n: Primal, dy: Tensor) -> Cotangent:
    """d(erf x) = 2/√π exp(-x²) dx."""
    x = n.required(0)
    return lambda: dy * (n.op.Exp(-(x * x)) * (2 / math.sqrt(math.pi)))


@rules.vjp("Sin")
def sin(n: Primal, dy: Tensor) -> Cotangent:
    """d(sin x) = cos(x) dx."""
    return lambda: dy * n.op.Cos(n.required(0))


@rules.vjp("Cos")
def cos(n: Primal, dy: Tensor) -> Cotangent:
    """d(cos x) = -sin(x) dx."""
    return lambda: -(dy * n.op.Sin(n.required(0)))


@rules.vjp("Tan", singular=True)
def tan(n: Primal, dy: Tensor) -> Cotangent:
    """d(tan x) = (1 + y²) dx."""
    y = n.outputs[0]
    return lambda: dy * (y * y + 1)


@rules.vjp("Asin", singular=True)
def asin(n: Primal, dy: Tensor) -> Cotangent:
    """d(asin x) = dx / √(1 - x²), infinite at ±1."""
    return lambda: dy / n.op.Sqrt(_one_minus_square(n.required(0)))


@rules.vjp("Acos", singular=True)
def acos(n: Primal, dy: Tensor) -> Cotangent:
    """d(acos x) = -dx / √(1 - x²), infinite at ±1."""
    return lambda: -(dy / n.op.Sqrt(_one_minus_square(n.required(0))))


@rules.vjp("Atan")
def atan(n: Primal, dy: Tensor) -> Cotangent:
    """d(atan x) = dx / (1 + x²)."""
    x = n.required(0)
    return lambda: dy / (x * x + 1)


@rules.vjp("Sinh")
def sinh(n: Primal, dy: Tensor) -> Cotangent:
    """d(sinh x) = cosh(x) dx, as y + e⁻ˣ, which exists where Cosh has no kernel."""
    return lambda: dy * (n.outputs[0] + n.op.Exp(-n.required(0)))


@rules.vjp("Cosh")
def cosh(n: Primal, dy: Tensor) -> Cotangent:
    """d(cosh x) = sinh(x) dx, as y tanh(x), which exists where Sinh has no kernel and is accurate near 0."""
    return lambda: dy * (n.outputs[0] * n.op.Tanh(n.required(0)))


@rules.vjp("Asinh")
def asinh(n: Primal, dy: Tensor) -> Cotangent:
    """d(asinh x) = dx / √(x² + 1)."""
    x = n.required(0)
    return lambda: dy / n.op.Sqrt(x * x + 1)


@rules.vjp("Acosh", singular=True)
def acosh(n: Primal, dy: Tensor) -> Cotangent:
    """d(acosh x) = dx / √(x² - 1), infinite at 1."""
    x = n.required(0)
    return lambda: dy / n.op.Sqrt((x - 1) * (x + 1))


@rules.vjp("Atanh", singular=True)
def atanh(n: Primal, dy: Tensor) -> Cotangent:
    """d(atanh x) = dx / (1 - x²), infinite at ±1."""
    return lambda: dy / _one_minus_square(n.required(0))


def _one_minus_square(x: Tensor) -> Tensor:
    """1 - x² in the form that keeps its digits near ±1."""
    return (1 - x) * (1 + x)
