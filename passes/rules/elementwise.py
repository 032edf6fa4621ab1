"""Rules of the elementwise arithmetic operators and of the conversion between types."""

from __future__ import annotations

from collections.abc import Sequence

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Identity")
def identity(n: Primal, dy: Tensor) -> Cotangent:
    """d(x) = dx."""
    return lambda: dy


@rules.vjp("Cast", "CastLike", inputs=(0,))
def cast(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is cast to the type of the input (a cast to an integer type stops the gradient)."""
    return lambda: dy.cast(n.required(0).dtype)


@rules.vjp("Neg")
def neg(n: Primal, dy: Tensor) -> Cotangent:
    """d(-x) = -dx."""
    return lambda: -dy


@rules.vjp("Add", broadcasts=True)
def add(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(a + b) = da + db."""
    return lambda: dy, lambda: dy


@rules.vjp("Sub", broadcasts=True)
def sub(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(a - b) = da - db."""
    return lambda: dy, lambda: -dy


@rules.vjp("Mul", broadcasts=True)
def mul(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(a b) = b da + a db."""
    a, b = n.required(0), n.required(1)
    return lambda: dy * b, lambda: dy * a


@rules.vjp("Div", broadcasts=True, singular=True)
def div(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(a / b) = da / b - (y / b) db."""
    b, y = n.required(1), n.outputs[0]
    return lambda: dy / b, lambda: -(dy * y / b)


@rules.vjp("Mod", broadcasts=True)
def mod(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(a mod b) = da - k db, where k = (a - y) / b is the integer quotient (constant but for its jumps)."""
    a, b, y = n.required(0), n.required(1), n.outputs[0]
    return lambda: dy, lambda: -(dy * n.op.Round((a - y) / b))


@rules.vjp("Sum", broadcasts=True)
def sum_(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """d(Σ a) = Σ da."""
    return [lambda: dy] * len(n.inputs)


@rules.vjp("Mean", broadcasts=True)
def mean(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """d(Σ a / n) = Σ da / n."""
    share = dy * (1 / len(n.inputs))
    return [lambda: share] * len(n.inputs)
