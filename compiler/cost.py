"""What the operators of a joint graph cost, told from the graph alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..passes.differentiate import PASS
from ..passes.flops import count_flops
from ..passes.memory_of_values import size_in_bytes


@dataclass(frozen=True)
class OperatorCost:
    """Of one operator: *nodes* in the main graph, *backward* of them emitted by a pass.

    Attributes:
        bytes: of what they compute.
        flops: their arithmetic.
    """

    operator: str
    nodes: int
    backward: int
    bytes: int
    flops: int


def cost_by_operator(graph: ir.Graph, sizes: Mapping[str, int] | None = None) -> list[OperatorCost]:
    """The operators of *graph*, the one with the most arithmetic first.

    Args:
        sizes: of symbolic dims by name; others count as `NOMINAL_SIZE`. Values of unknown rank count nothing.
    """
    nodes: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    computed: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    for node in graph:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        taken = (size_in_bytes(value, sizes) for value in node.outputs)
        nodes[operator] += 1
        backward[operator] += node.metadata_props.get(PASS) not in (None, "attach_loss")
        flops[operator] += count_flops([node], sizes).total
        computed[operator] += int(sum(size for size in taken if math.isfinite(size)))
    costs = [OperatorCost(name, nodes[name], backward[name], computed[name], flops[name]) for name in nodes]
    return sorted(costs, key=lambda cost: (-cost.flops, -cost.bytes, cost.operator))
