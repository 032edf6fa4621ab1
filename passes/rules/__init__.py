"""The VJP rules, one file per operator family."""

from __future__ import annotations

from ..registry import Registry
from . import elementwise, reductions, shapes

BUILTIN_RULES = Registry(elementwise.rules, reductions.rules, shapes.rules)
"""Every rule and declaration that onnxgrad ships."""
