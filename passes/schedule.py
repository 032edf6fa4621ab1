"""The order of the nodes in the file from which the runtime makes the order that needs the least memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .execution_order import execution_order_of_file
from .peak_memory import Lifetimes


class Schedule(ir.passes.InPlacePass):
    """Write the nodes in the order in the file that gives the least estimated peak of memory when they run.

    A runtime session does not execute a file from the top to the bottom (see `execution_order`). Written in the order
    of the differentiation, all cotangents of a network are computed before the first weight's gradient is, and live
    until then. So the leaves, weight gradients for the most part, come at the end of the file, in the opposite order
    of that in which they are to be executed: the one nearest to the loss last. And where a node reads what is deep in
    the graph (a cotangent) and what is not (a value that is computed again), the shallow one is written before the
    deep one, for then it is executed after it.

    Args:
        sizes: of symbolic dims by name, for the estimates; others count as `NOMINAL_SIZE`.

    Requires: the nodes are sorted. Guarantees: they are sorted again; the graph's inputs and outputs keep their order.
    """

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self._sizes = sizes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        lifetimes = Lifetimes(model.graph, self._sizes)
        reads = [sorted({lifetimes.makers[value] for value in demand.reads}) for demand in lifetimes.demands]
        written = list(range(len(reads)))
        inner, leaves = _leaves_last(reads)
        candidates = (written, inner + leaves, _shallow_first(inner, reads) + leaves)
        peaks = [max(lifetimes.totals(execution_order_of_file(reads, file)), default=0) for file in candidates]
        best = candidates[peaks.index(min(peaks))]
        if best is not written:
            model.graph.extend([lifetimes.nodes[index] for index in best])
        return ir.passes.PassResult(model, best is not written)


def _leaves_last(reads: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The nodes that others read, and the others, in the opposite order of that in which they could first run."""
    read = {producer for producers in reads for producer in producers}
    leaves = [node for node in range(len(reads)) if node not in read]
    leaves.sort(key=lambda node: (max(reads[node], default=-1), node), reverse=True)
    return sorted(read), leaves


def _shallow_first(inner: Sequence[int], reads: Sequence[Sequence[int]]) -> list[int]:
    """*inner* with each node behind the shallower ones that some node reads together with it."""
    depth: list[int] = []
    before: dict[int, list[int]] = {}
    for producers in reads:
        depth.append(1 + max([depth[producer] for producer in producers], default=0))
        if len(producers) > 1:
            deepest = max(producers, key=depth.__getitem__)
            before.setdefault(deepest, []).extend([p for p in producers if depth[p] < depth[deepest]])
    placed: dict[int, None] = {}
    for node in inner:
        for shallow in sorted(before.get(node, ())):
            _place(shallow, reads, placed)
        _place(node, reads, placed)
    return list(placed)


def _place(node: int, reads: Sequence[Sequence[int]], placed: dict[int, None]) -> None:
    """Append *node* to *placed*, behind what it reads."""
    pending = [node]
    while pending:
        missing = [producer for producer in reads[pending[-1]] if producer not in placed]
        if missing:
            pending.extend(reversed(missing))
        else:
            placed.setdefault(pending.pop())
