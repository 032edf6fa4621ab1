"""The order of the nodes in the file from which the runtime makes the order that needs the least memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir

from .execution_order import execution_order_of_file
from .forward_part import is_backward
from .peak_memory import Lifetimes
from .tape import Tape
from .waits import make_wait, possible_waits

LEAST_SAVED = 1 << 20
"""The fewest bytes for which a node is made to wait for another."""


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
        forward: the names of the values of a joint graph's forward part. If they are given, backward nodes may be made
            to wait for others where no order of the file is as good (see `waits`).

    Requires: the nodes are sorted. Guarantees: they are sorted again; the graph's inputs and outputs keep their order.
    """

    def __init__(self, sizes: Mapping[str, int] | None = None, forward: Collection[str] | None = None) -> None:
        self._sizes = sizes
        self._forward = None if forward is None else frozenset(forward)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        lifetimes = Lifetimes(graph, self._sizes)
        reads = [sorted({lifetimes.makers[value] for value in demand.reads}) for demand in lifetimes.demands]
        best = _best_order(lifetimes, reads)
        waits = []
        while better := self._better_with_a_wait(lifetimes, reads, best):
            (late, early), best = better
            waits.append((late, early))
            reads[late] = sorted([*reads[late], early])
        modified = best.file != list(range(len(reads)))
        if modified:
            graph.extend([lifetimes.nodes[index] for index in best.file])
        if waits:
            op = Tape(graph, opset=model.opset_imports[""])
            for late, early in waits:
                make_wait(op, lifetimes.nodes[late], lifetimes.nodes[early])
        return ir.passes.PassResult(model, modified or bool(waits))

    def _better_with_a_wait(
        self, lifetimes: Lifetimes, reads: Sequence[Sequence[int]], order: _Order
    ) -> tuple[tuple[int, int], _Order] | None:
        """A node and one that it should wait for, and the order then; None where no such pair saves enough."""
        if self._forward is None:
            return None
        for late, early in possible_waits(lifetimes, reads, order.executed, order.totals):
            if is_backward(lifetimes.nodes[late], self._forward):
                trial = [sorted([*each, early]) if node == late else each for node, each in enumerate(reads)]
                found = _best_order(lifetimes, trial)
                if found.peak <= order.peak - LEAST_SAVED:
                    return (late, early), found
        return None


class _Order(NamedTuple):
    """An order in the file, and what comes of it: the order in which nodes are executed, the bytes then, the most."""

    file: list[int]
    executed: list[int]
    totals: list[int]
    peak: int


def _best_order(lifetimes: Lifetimes, reads: Sequence[Sequence[int]]) -> _Order:
    """Of the orders that are tried, the first of those with the lowest peak; as it is written is one, if it is sorted.

    Args:
        reads: for each node those that it must follow.
    """
    nodes, ordered = list(range(len(reads))), reads
    if any(read and read[-1] > node for node, read in enumerate(reads)):
        placed: dict[int, None] = {}
        for node in nodes:
            _place(node, reads, placed)
        nodes = list(placed)
        position = {node: index for index, node in enumerate(nodes)}
        ordered = [sorted([position[read] for read in reads[node]]) for node in nodes]
    inner, leaves = _leaves_last(ordered)
    orders = []
    for positions in (list(range(len(nodes))), inner + leaves, _shallow_first(inner, ordered) + leaves):
        file = [nodes[index] for index in positions]
        executed = execution_order_of_file(reads, file)
        totals = lifetimes.totals(executed)
        orders.append(_Order(file, executed, totals, max(totals, default=0)))
    return min(orders, key=lambda order: order.peak)


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
