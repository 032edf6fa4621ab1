"""The VJP rules, one file per operator family."""

from __future__ import annotations

from ..registry import Registry
from . import einsum, elementwise, matrix, reductions, shapes

BUILTIN_RULES = Registry(einsum.rules, elementwise.rules, matrix.rules, reductions.rules, shapes.rules)
"""Every rule and declaration that onnxgrad ships."""
