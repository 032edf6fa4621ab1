"""Rules of the reductions."""

from __future__ import annotations

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("ReduceSum", inputs=(0,))
def reduce_sum(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is repeated along the summed axes."""
    return lambda: restore_reduced_axes(n, dy).expand_like(n.required(0))


@rules.vjp("ReduceMean", inputs=(0,))
def reduce_mean(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent, divided by the number of averaged elements, is repeated along the averaged axes."""
    x = n.required(0)

    def cotangent() -> Tensor:
        spread = restore_reduced_axes(n, dy)
        return (spread / reduced_count(n)).expand_like(x)

    return cotangent


def reduced_axes(n: Primal) -> list[int] | None:
    """The static axes that a Reduce* node reduces over; None where they are computed in the graph."""
    axes = n.input(1)
    if axes is None or axes.static_shape == (0,):
        return [] if n.attr("noop_with_empty_axes", 0) else list(range(n.required(0).rank))
    return n.axes(1)


def restore_reduced_axes(n: Primal, reduced: Tensor) -> Tensor:
    """Give *reduced*, of the shape of a Reduce* node's output, the rank of its input (sizes 1 where reduced)."""
    if n.attr("keepdims", 1):
        return reduced
    axes = reduced_axes(n)
    if axes is not None:
        return reduced.unsqueeze(axes)
    return n.op.Reshape(reduced, _kept_sizes(n), allowzero=1)


def reduced_count(n: Primal) -> Tensor:
    """How many elements a Reduce* node folds into each element of its output: a scalar of the input's dtype."""
    x, axes = n.required(0), reduced_axes(n)
    if axes is not None:
        return x.count(axes)
    sizes = n.op.Gather(n.op.Shape(x), n.op.Where(n.required(1) < 0, n.required(1) + x.rank, n.required(1)))
    count = n.op.ReduceProd(sizes, keepdims=0)
    return count.cast(x.dtype)


def _kept_sizes(n: Primal) -> Tensor:
    """The shape of the input with 1 at the axes that are computed in the graph."""
    op, x, axes = n.op, n.required(0), n.required(1)
    ones = op.Expand(op.ints([1]), op.Shape(axes))
    return op.ScatterElements(op.Shape(x), op.Where(axes < 0, axes + x.rank, axes), ones, axis=0)
