"""Rules of the normalizations by a norm: LRN over neighbouring channels, LpNormalization along an axis."""

from __future__ import annotations

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("LRN")
def lrn(n: Primal, dy: Tensor) -> Cotangent:
    """y = x s^-β with s = bias + α/size Σ x² over neighbours; dx = dy s^-β - 2αβ/size x Σ' dy y/s.

    Σ sums channels c - ⌊(size-1)/2⌋ to c + ⌈(size-1)/2⌉, its adjoint Σ' the mirrored range (Krizhevsky et al. 2012,
    section 3.3).
    """
    x, y = n.required(0), n.outputs[0]
    size, alpha, beta = int(n.attr("size")), float(n.attr("alpha", 1e-4)), float(n.attr("beta", 0.75))
    before, after = (size - 1) // 2, size // 2

    def cotangent() -> Tensor:
        s = _sum_neighbours(x * x, before, after) * (alpha / size) + float(n.attr("bias", 1.0))
        neighbours = _sum_neighbours(dy * y / s, after, before)
        return dy * s**-beta - x * neighbours * (2.0 * alpha * beta / size)

    return cotangent


@rules.vjp("LpNormalization")
def lp_normalization(n: Primal, dy: Tensor) -> Cotangent:
    """y = x / ‖x‖; dx = (dy - ∂‖x‖ Σ dy y) / ‖x‖, with ∂‖x‖ = y for p = 2, sign(x) for p = 1; 0 where ‖x‖ is 0."""
    op, x, y = n.op, n.required(0), n.outputs[0]
    axis = n.axis(-1)

    def cotangent() -> Tensor:
        if n.attr("p", 2) == 1:
            norm, slope = op.Abs(x).sum([axis], keepdims=True), op.Sign(x)
        else:
            norm, slope = op.Sqrt((x * x).sum([axis], keepdims=True)), y
        empty = norm.equals(0.0)
        dx = (dy - slope * (dy * y).sum([axis], keepdims=True)) / op.Where(empty, op.constant(1, x.dtype), norm)
        return op.Where(empty, op.constant(0, x.dtype), dx)

    return cotangent


def _sum_neighbours(x: Tensor, before: int, after: int) -> Tensor:
    """The sum of channels c - before … c + after, for each channel c."""
    op = x.op
    rank = x.rank
    pads = [0, before, *[0] * (rank - 2), 0, after, *[0] * (rank - 2)]
    padded = op.Pad(x, op.ints(pads))
    size = before + after + 1
    last = 2**31
    windows = [
        op.Slice(padded, op.ints([k]), op.ints([k + 1 - size if k + 1 < size else last]), op.ints([1]))
        for k in range(size)
    ]
    return windows[0] if size == 1 else op.Sum(*windows)
