"""The VJP rules, one file per operator family."""

from __future__ import annotations

from ..registry import Registry
from . import einsum, elementwise, indexing, losses, matrix, padding, reductions, shapes, slicing, writing

BUILTIN_RULES = Registry(
    einsum.rules,
    elementwise.rules,
    indexing.rules,
    losses.rules,
    matrix.rules,
    padding.rules,
    reductions.rules,
    shapes.rules,
    slicing.rules,
    writing.rules,
)
"""Every rule and declaration that onnxgrad ships."""
