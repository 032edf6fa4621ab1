"""Which graphs compute so little that what a run costs beside its kernels counts."""

from __future__ import annotations

import onnx_ir as ir

from ..passes.memory_of_values import size_in_bytes
from ..passes.subgraphs import all_graphs

_SMALL = 2**20
"""Bytes of all values together. Beyond, kernels take so long that nothing else is seen in the time."""


def is_small(graph: ir.Graph) -> bool:
    """Whether all values that *graph* computes have known shapes, and are small together."""
    total = 0.0
    for each in all_graphs(graph):
        for node in each:
            for value in node.outputs:
                if value.shape is None or not value.shape.is_static():
                    return False
                total += size_in_bytes(value)
    return total <= _SMALL
