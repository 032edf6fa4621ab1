"""Rules of the operators that pick one of their operands for each element: Where, Max, Min, Clip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .masking import masked

rules = Registry()


@rules.vjp("Where", inputs=(1, 2), broadcasts=True)
def where(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """The cotangent goes to the operand that was picked; the condition has none."""
    op, condition = n.op, n.required(0)
    zero = op.constant(0, dy.dtype)
    return None, lambda: op.Where(condition, dy, zero), lambda: op.Where(condition, zero, dy)


@rules.vjp("Max", "Min", broadcasts=True)
def extremum(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent goes to the operand that is the extremum, in equal parts to all that tie (as in PyTorch)."""
    op, y = n.op, n.outputs[0]
    operands = [n.required(index) for index in range(len(n.inputs))]
    if len(operands) == 1:
        return [lambda: dy]
    zero = op.constant(0, dy.dtype)
    if len(operands) == 2:
        a, b = operands
        wins = op.GreaterOrEqual if n.node.op_type == "Max" else op.LessOrEqual
        share = op.Where(a.equals(b), dy * 0.5, dy)
        return [lambda: op.Where(wins(a, b), share, zero), lambda: op.Where(wins(b, a), share, zero)]
    picked = [operand.equals(y) for operand in operands]
    share = dy / op.Sum(*(mask.cast(dy.dtype) for mask in picked))
    return [partial(op.Where, mask, share, zero) for mask in picked]


@rules.vjp("Clip", inputs=(0, 1, 2), broadcasts=True)
def clip(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """The cotangent goes to x where min ≤ x ≤ max, to min where x < min, to max where x > max.

    It passes to x at the bounds, and where min > max it goes to max alone (as in PyTorch).
    """
    op, x, low, high = n.op, n.required(0), n.input(1), n.input(2)
    zero = op.constant(0, dy.dtype)

    def cotangent_x() -> Tensor:
        if _are_in_order(low, high):
            return masked(dy, x.equals(n.outputs[0]))  # one comparison, where the bounds take two and an And
        if low is not None and high is not None:
            return masked(dy, op.And(x >= low, x <= high))
        if low is not None:
            return masked(dy, x >= low)
        return dy if high is None else masked(dy, x <= high)

    def cotangent_low() -> Tensor | None:
        if low is None:
            return None
        below = x < low if high is None else op.And(x < low, low < high)
        return op.Where(below, dy, zero)

    def cotangent_high() -> Tensor | None:
        if high is None:
            return None
        above = x > high if low is None else op.Or(x > high, low > high)
        return op.Where(above, dy, zero)

    return cotangent_x, cotangent_low, cotangent_high


def _are_in_order(low: Tensor | None, high: Tensor | None) -> bool:
    """Whether both bounds are constants, the lower one no greater than the other."""
    if low is None or high is None or low.constant is None or high.constant is None:
        return False
    return bool((low.constant <= high.constant).all())
