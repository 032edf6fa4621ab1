"""Rules of the cumulative sum and product."""

from __future__ import annotations

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("CumSum", inputs=(0,))
def cumsum(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is summed cumulatively in the other direction."""
    exclusive, reverse = n.attr("exclusive", 0), n.attr("reverse", 0)
    return lambda: n.op.CumSum(dy, n.required(1), exclusive=exclusive, reverse=1 - reverse)
