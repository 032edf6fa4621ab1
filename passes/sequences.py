"""Computations on whole sequences, element by element."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from .tape import Tape, Tensor


def map_sequence(op: Tape, function: Callable[..., Tensor], *sequences: Tensor) -> Tensor:
    """The sequence of `function(inner, x, …)` of the elements of *sequences* (ONNX operators, SequenceMap).

    Args:
        function: emits on the tape *inner*, from one element of each sequence, one tensor.
    """
    inner = op.body()
    elements = [inner.argument("element", s.dtype, None if s.value.shape is None else s.shape) for s in sequences]
    inner.returns(function(inner, *elements))
    mapped = op.SequenceMap(*sequences, body=inner.graph)
    mapped.value.type = ir.SequenceType(ir.TensorType(mapped.dtype))
    return mapped


def zeros_like(op: Tape, x: Tensor) -> Tensor:
    """Zeros of the shape of *x*, or of the shapes of its elements if it is a sequence."""
    if not is_sequence(x):
        return op.zeros_like(x)
    return map_sequence(op, lambda inner, e: inner.Expand(inner.constant(0, e.dtype), inner.Shape(e)), x)


def add(op: Tape, a: Tensor, b: Tensor) -> Tensor:
    """a + b, for sequences of one length element by element."""
    return map_sequence(op, lambda inner, x, y: inner.Add(x, y), a, b) if is_sequence(a) else op.Add(a, b)


def is_sequence(x: Tensor) -> bool:
    """Whether the value is a sequence of tensors."""
    return type(x.value.type) is ir.SequenceType  # isinstance takes ten times as long
