"""ONNX Runtime's own operators, and the optimizers of ONNX, by what they are in standard ones, one file per family."""

from __future__ import annotations

from . import activations, attention, embedding, grouped_query_attention, matrix, normalization, optimizers, quantized
from .expansion import Expansion

EXPANSIONS: dict[tuple[str, str], Expansion] = {
    **activations.EXPANSIONS,
    **attention.EXPANSIONS,
    **embedding.EXPANSIONS,
    **grouped_query_attention.EXPANSIONS,
    **matrix.EXPANSIONS,
    **normalization.EXPANSIONS,
    **optimizers.EXPANSIONS,
    **quantized.EXPANSIONS,
}
"""By domain and operator, what emits the standard nodes that take the place of one."""
