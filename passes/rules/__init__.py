"""The VJP rules, one file per operator family."""

from __future__ import annotations

from ..registry import Registry
from . import (
    activations,
    attention,
    convolution,
    cumulative,
    declarations,
    dropout,
    einsum,
    elementary_functions,
    elementwise,
    indexing,
    local_normalization,
    losses,
    matrix,
    normalization,
    padding,
    pooling,
    reductions,
    resizing,
    rotary_embedding,
    selection,
    shapes,
    slicing,
    softmax,
    writing,
)

BUILTIN_RULES = Registry(
    activations.rules,
    attention.rules,
    convolution.rules,
    cumulative.rules,
    declarations.rules,
    dropout.rules,
    einsum.rules,
    elementary_functions.rules,
    elementwise.rules,
    indexing.rules,
    local_normalization.rules,
    losses.rules,
    matrix.rules,
    normalization.rules,
    padding.rules,
    pooling.rules,
    reductions.rules,
    resizing.rules,
    rotary_embedding.rules,
    selection.rules,
    shapes.rules,
    slicing.rules,
    softmax.rules,
    writing.rules,
)
"""Every rule and declaration that onnxgrad ships."""
