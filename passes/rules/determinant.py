"""The rule of Det."""

from __future__ import annotations

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .sizes import count_up_to, size_of

rules = Registry()


@rules.vjp("Det")
def det(n: Primal, dy: Tensor) -> Cotangent:
    """dA = dy cof(A): the determinants of the minors, with their signs.

    That is exact for singular matrices too, to any order, where det(A) A⁻ᵀ is not. It takes n⁴ elements a matrix and
    n⁵ steps, so it is for the sizes at which a determinant is within the range of a float.
    """
    a = n.required(0)
    return lambda: dy.unsqueeze([a.rank - 2, a.rank - 1]) * _cofactors(a)


def _cofactors(a: Tensor) -> Tensor:
    """(-1)^(i+j) times the determinant of *a* without row i and column j, [..., n, n]."""
    op, rows = a.op, a.rank - 2
    size = size_of(a, -1)
    if size == 1:
        return op.full_like(a, 1)
    index = count_up_to(op, size)
    kept = count_up_to(op, size - 1)
    others = kept + (kept >= index.unsqueeze([1])).cast(ir.DataType.INT64)
    minors = op.Gather(op.Gather(a, others, axis=rows), others, axis=rows + 2)
    batch = list(range(rows))
    minors = minors.transpose([*batch, rows, rows + 2, rows + 1, rows + 3])
    signs = 1 - op.Mod(index, op.ints([2])) * 2
    return op.Det(minors) * (signs.unsqueeze([1]) * signs).cast(a.dtype)
