"""Rules of the matrix products: MatMul, Gemm."""

from __future__ import annotations

from ..broadcasting import unbroadcast
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("MatMul")
def matmul(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(A B) = dA B + A dB, summed over the batch axes along which A or B was broadcast.

    Products with a 2-D B are one Gemm over the flattened batch, with the transpositions in its attributes: a
    runtime then makes no transposed copy, and can add into an existing gradient by the Gemm's third operand.
    """
    a, b = n.required(0), n.required(1)
    if a.rank == 1 and b.rank == 1:
        return lambda: dy * b, lambda: dy * a
    if b.rank == 1:
        return lambda: _outer(dy, b), lambda: _weighted_rows(dy, a)
    if a.rank == 1:
        return lambda: _vector_cotangent(dy, a, b), lambda: _row_matrix_cotangent(dy, a, b)
    if b.rank == 2:
        op = n.op
        return (
            lambda: op.Gemm(_rows(dy), b, transB=1).reshape_like(a),
            lambda: op.Gemm(_rows(a), _rows(dy), transA=1),
        )
    return (
        lambda: unbroadcast(dy @ b.swap_last_two(), a),
        lambda: unbroadcast(a.swap_last_two() @ dy, b),
    )


@rules.vjp("Gemm", inputs=(0, 1, 2))
def gemm(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """d(alpha A' B' + beta C) = alpha dA' B' + alpha A' dB' + beta dC.

    A' and B' are A and B, transposed if asked. C is broadcast to the product, so its cotangent is summed back.
    """
    op, a, b, c = n.op, n.required(0), n.required(1), n.input(2)
    alpha, beta = n.attr("alpha", 1.0), n.attr("beta", 1.0)
    trans_a, trans_b = n.attr("transA", 0), n.attr("transB", 0)

    def cotangent_a() -> Tensor:
        if trans_a:
            return op.Gemm(b, dy, alpha=alpha, transA=trans_b, transB=1)
        return op.Gemm(dy, b, alpha=alpha, transA=0, transB=1 - trans_b)

    def cotangent_b() -> Tensor:
        if trans_b:
            return op.Gemm(dy, a, alpha=alpha, transA=1, transB=trans_a)
        return op.Gemm(a, dy, alpha=alpha, transA=1 - trans_a, transB=0)

    def cotangent_c() -> Tensor | None:
        if c is None or beta == 0:
            return None
        return unbroadcast(dy, c) if beta == 1 else unbroadcast(dy, c) * beta

    return cotangent_a, cotangent_b, cotangent_c


def _rows(x: Tensor) -> Tensor:
    """The rows of *x* (its last axis) as a matrix."""
    return x.flatten(x.rank - 1)


def _outer(x: Tensor, vector: Tensor) -> Tensor:
    """x[..., i] v[j]."""
    return x.unsqueeze([x.rank]) * vector


def _weighted_rows(weights: Tensor, x: Tensor) -> Tensor:
    """Σ w[...] x[..., j]: the cotangent of v in x v."""
    op = x.op
    column = weights.flatten(weights.rank)
    return op.Gemm(_rows(x), column, transA=1).squeeze([1])


def _vector_cotangent(dy: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The cotangent of a vector *a* in a B: B dy, summed over the batch of B."""
    if b.rank == 2:
        return b @ dy
    product = (b @ dy.unsqueeze([dy.rank])).squeeze([b.rank - 1])
    return product.sum(range(b.rank - 2))


def _row_matrix_cotangent(dy: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The cotangent of B in a B for a vector *a*: a dyᵀ."""
    return a.unsqueeze([1]) * dy.unsqueeze([b.rank - 2])
