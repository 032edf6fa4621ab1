"""Rules of the operators that rearrange elements without computing: Reshape, Transpose, Expand and their kin."""

from __future__ import annotations

from ..broadcasting import unbroadcast
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()

rules.zero("Shape", "Size", reason="its output depends on the shape of the input only")


@rules.vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze", inputs=(0,))
def reshape(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent takes the shape of the input."""
    return lambda: dy.reshape_like(n.required(0))


@rules.vjp("Expand", inputs=(0,))
def expand(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is summed over the axes along which the input was repeated."""
    return lambda: unbroadcast(dy, n.required(0))


@rules.vjp("Transpose")
def transpose(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is transposed by the inverse permutation."""
    rank = n.required(0).rank
    perm = list(n.attr("perm", range(rank)[::-1]))
    return lambda: dy.transpose([perm.index(axis) for axis in range(rank)])


@rules.vjp("Cast")
def cast(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is cast to the type of the input (a cast to an integer type stops the gradient)."""
    return lambda: dy.cast(n.required(0).dtype)
