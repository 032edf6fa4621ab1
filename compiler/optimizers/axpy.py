"""a·x + y, the sum that optimizers are made of, in the form that a device computes best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...passes.tape import Tensor

Axpy = Callable[[Tensor | float, Tensor, Tensor], Tensor]
"""Emits a·x + y, for x and y of shape [1, n] and a a number or of shape [1, 1]. (The name is that of the BLAS.)"""


def axpy_as_gemm(a: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
    """The product of a and x, added to y: one operator, which on a CPU takes the time of one of the two of the sum."""
    if not isinstance(a, Tensor):
        a = x.op.constant(np.full((1, 1), a), x.dtype)
    return x.op.Gemm(a, x, y)


def axpy_as_sum(a: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
    """Element by element: for GPUs, whose matrix products may round what they read (TF32)."""
    return y + x * a
