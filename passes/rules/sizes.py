"""Arithmetic on sizes that may be known now or only when the graph runs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..tape import Tape, Tensor

Size = int | Tensor
"""A known size, or a 1-D int64 tensor of one element. `+`, `-` and `*` work on any mixture."""


def size_of(x: Tensor, axis: int) -> Size:
    """The size of *x* along *axis*."""
    dim = x.shape[axis]
    return dim if isinstance(dim, int) else x.sizes([axis])


def larger(a: Size, b: Size) -> Size:
    """The larger of two sizes."""
    if isinstance(a, int):
        if isinstance(b, int):
            return max(a, b)
        a, b = b, a
    return a.op.Max(a, a.op.ints([b]) if isinstance(b, int) else b)


def smaller(a: Size, b: Size) -> Size:
    """The smaller of two sizes."""
    if isinstance(a, int):
        if isinstance(b, int):
            return min(a, b)
        a, b = b, a
    return a.op.Min(a, a.op.ints([b]) if isinstance(b, int) else b)


def join_sizes(op: Tape, sizes: Sequence[Size]) -> Tensor:
    """The sizes as one 1-D int64 tensor, a constant if all are known. A tensor may hold several."""
    parts: list[list[int] | Tensor] = []
    for size in sizes:
        known = [size] if isinstance(size, int) else size.constant
        if known is None:
            assert isinstance(size, Tensor)
            parts.append(size)
        elif parts and isinstance(parts[-1], list):
            parts[-1].extend(int(value) for value in known)
        else:
            parts.append([int(value) for value in known])
    tensors = [op.ints(part) if isinstance(part, list) else part for part in parts]
    return tensors[0] if len(tensors) == 1 else op.Concat(*tensors, axis=0) if tensors else op.ints([])


def count_up_to(op: Tape, size: Size) -> Tensor:
    """0, 1, 2, … below *size*: 1-D int64."""
    if isinstance(size, int):
        return op.ints(range(size))
    zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
    return op.Range(zero, size.squeeze([0]), one)
