"""Rules of the reductions.

With no axes at all (`noop_with_empty_axes`) a reduction still applies its elementwise part, as the ONNX
specification says: ReduceSumSquare squares, ReduceL1 takes absolute values. The rules hold there too.
"""

from __future__ import annotations

import onnx_ir as ir

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
    # In float16 the count itself may overflow.
    dtype = ir.DataType.FLOAT if x.dtype == ir.DataType.FLOAT16 else x.dtype

    def cotangent() -> Tensor:
        share = (dy.cast(dtype) / reduced_count(n, dtype)).cast(x.dtype)
        return restore_reduced_axes(n, share).expand_like(x)

    return cotangent


@rules.vjp("ReduceMax", "ReduceMin", inputs=(0,))
def reduce_extremum(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent goes to the extremum, in equal parts to all elements that tie (as `torch.amax`)."""
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        picked = x.equals(restore_reduced_axes(n, n.outputs[0]))
        ties = picked.cast(x.dtype).sum(reduced_axes(n), keepdims=True)
        return op.Where(picked, restore_reduced_axes(n, dy) / ties, op.constant(0, x.dtype))

    return cotangent


@rules.vjp("ReduceProd", inputs=(0,))
def reduce_prod(n: Primal, dy: Tensor) -> Cotangent:
    """Each element gets dy times the product of the others, exact for any number of zeros.

    That is the product of the nonzero others times that of the zero others, which is 1 if there is none, their
    sum if there is one (so that it has the right derivative), and 0 if there are more. Second derivatives are
    exact, too; a third derivative is 0 where three or more factors of one product are 0.
    """
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        axes = reduced_axes(n)
        zero, one = op.constant(0, x.dtype), op.constant(1, x.dtype)
        is_zero = x.equals(0)
        nonzero, zeros = op.Where(is_zero, one, x), op.Where(is_zero, x, zero)
        flags = is_zero.cast(x.dtype)
        other_zeros = flags.sum(axes, keepdims=True) - flags
        sum_of_others = zeros.sum(axes, keepdims=True) - zeros
        zero_part = op.Where(other_zeros.equals(0), one, op.Where(other_zeros.equals(1), sum_of_others, zero))
        return restore_reduced_axes(n, dy) * (nonzero.prod(axes, keepdims=True) / nonzero * zero_part)

    return cotangent


@rules.vjp("ReduceL1", inputs=(0,))
def reduce_l1(n: Primal, dy: Tensor) -> Cotangent:
    """d(Σ |x|) = Σ sign(x) dx, with 0 at 0."""
    return lambda: restore_reduced_axes(n, dy) * n.op.Sign(n.required(0))


@rules.vjp("ReduceL2", inputs=(0,))
def reduce_l2(n: Primal, dy: Tensor) -> Cotangent:
    """d(√Σ x²) = Σ x / y dx, with 0 where y = 0."""
    op, y = n.op, n.outputs[0]

    def cotangent() -> Tensor:
        norm = op.Where(y.equals(0), op.constant(1, y.dtype), y)
        return restore_reduced_axes(n, dy / norm) * n.required(0)

    return cotangent


@rules.vjp("ReduceSumSquare", inputs=(0,))
def reduce_sum_square(n: Primal, dy: Tensor) -> Cotangent:
    """d(Σ x²) = Σ 2 x dx."""
    return lambda: restore_reduced_axes(n, dy * 2) * n.required(0)


@rules.vjp("ReduceLogSum", inputs=(0,))
def reduce_log_sum(n: Primal, dy: Tensor) -> Cotangent:
    """d(ln Σ x) = Σ e⁻ʸ dx."""
    return lambda: restore_reduced_axes(n, dy / n.op.Exp(n.outputs[0])).expand_like(n.required(0))


@rules.vjp("ReduceLogSumExp", inputs=(0,))
def reduce_log_sum_exp(n: Primal, dy: Tensor) -> Cotangent:
    """d(ln Σ eˣ) = Σ eˣ⁻ʸ dx."""
    y = n.outputs[0]
    return lambda: restore_reduced_axes(n, dy) * n.op.Exp(n.required(0) - restore_reduced_axes(n, y))


def reduced_axes(n: Primal) -> list[int] | Tensor:
    """The axes that a Reduce* node reduces over, non-negative: a list, or a 1-D tensor where they are computed."""
    op, x, axes = n.op, n.required(0), n.input(1)
    noop = n.attr("noop_with_empty_axes", 0)
    if axes is None or axes.static_shape == (0,):
        return [] if noop else list(range(x.rank))
    static = n.axes(1)
    if static is not None:
        return static
    axes = op.Where(axes < 0, axes + x.rank, axes)
    if axes.static_shape is None and not noop:
        # They may turn out to be empty, which means all.
        empty = op.Size(axes).equals(0)
        axes = op.Concat(axes, op.Compress(op.ints(range(x.rank)), op.Expand(empty, op.ints([x.rank]))), axis=0)
    return axes


def restore_reduced_axes(n: Primal, reduced: Tensor) -> Tensor:
    """Give *reduced*, of the shape of a Reduce* node's output, the rank of its input (sizes 1 where reduced)."""
    if n.attr("keepdims", 1):
        return reduced
    axes = reduced_axes(n)
    if isinstance(axes, list):
        return reduced.unsqueeze(axes)
    restored = n.op.Unsqueeze(reduced, axes)
    restored.value.shape = ir.Shape([None] * n.required(0).rank)
    return restored


def reduced_count(n: Primal, dtype: ir.DataType) -> Tensor:
    """How many elements a Reduce* node folds into each element of its output: a scalar in *dtype*."""
    x, axes = n.required(0), reduced_axes(n)
    if isinstance(axes, list):
        return x.count(axes, dtype=dtype)
    return n.op.ReduceProd(n.op.Gather(n.op.Shape(x), axes), keepdims=0).cast(dtype)
