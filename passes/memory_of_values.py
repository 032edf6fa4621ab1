"""How many bytes a value takes, and whose memory it is a view of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import onnx_ir as ir

VIEWS = frozenset("Flatten Identity Reshape Squeeze Unsqueeze".split())
"""Operators whose output is their first input's memory."""
NOMINAL_SIZE = 32
"""What a dim counts for whose size is not known."""


def size_in_bytes(value: ir.Value, sizes: Mapping[str, int] | None = None) -> float:
    """The size of *value*; infinite if not even its rank is known, or its elements have no fixed size.

    Args:
        sizes: the sizes of symbolic dims by name, from which those of expressions (`2*batch`) follow; a dim that
            is not among them counts as `NOMINAL_SIZE`.
    """
    shape, dtype = value.shape, value.dtype
    if shape is None or dtype is None or dtype == ir.DataType.STRING:
        return math.inf
    return math.prod([dim if isinstance(dim, int) else size_of_dim(dim, sizes or {}) for dim in shape]) * dtype.itemsize


def memory_of(value: ir.Value) -> ir.Value:
    """The value whose memory *value* is a view of; itself for one that is computed."""
    while (node := value.producer()) is not None and node.domain == "" and node.op_type in VIEWS:
        source = node.inputs[0]
        assert source is not None
        value = source
    return value


def size_of_dim(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int:
    """The size of *dim*, as in `size_in_bytes`."""
    if isinstance(dim, int):
        return dim
    if dim.value is None:
        return NOMINAL_SIZE
    if dim.value in sizes or dim.value.isidentifier():
        return sizes.get(dim.value, NOMINAL_SIZE)
    return _evaluate(dim.value, tuple((name, sizes.get(name, NOMINAL_SIZE)) for name in sorted(dim.free_symbols())))


@cache
def _evaluate(expression: str, bindings: tuple[tuple[str, int], ...]) -> int:
    size = ir.SymbolicDim(expression).evaluate(dict(bindings)) if bindings else None
    return max(0, size) if isinstance(size, int) else NOMINAL_SIZE
