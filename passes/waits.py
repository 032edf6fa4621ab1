"""Nodes that wait for others: order where the order of the nodes in the file cannot give it.

A cotangent that is larger than the products that read it should go as soon as all have: the scores' over a vocabulary,
behind which a model's own backward part begins. But where the output's weights are the embedding too, the product for
their gradient is not read until the embedding's part of it is there, at the very end, and is no earlier in any order of
the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from .differentiate import PASS
from .peak_memory import Lifetimes
from .substitution import move_after
from .tape import Tape

LARGE = 0.25
"""The least share of the peak of a value whose readers are looked at."""


def possible_waits(
    lifetimes: Lifetimes, reads: Sequence[Sequence[int]], executed: Sequence[int], totals: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Pairs of nodes of which the former could wait for the latter, so that a large value is free before the peak.

    Both read the value; the former is executed before the peak, the latter last of all that read it.

    Args:
        reads: the nodes that each node reads from.
        executed: all nodes in their order, of which *totals* are the bytes that live meanwhile.
    """
    peak = max(totals, default=0)
    large = [value for value, size in enumerate(lifetimes.bytes) if size >= LARGE * peak > 0]
    if not large:
        return
    place = {node: index for index, node in enumerate(executed)}
    readers = _readers(lifetimes)
    for value in sorted(large, key=lifetimes.bytes.__getitem__, reverse=True):
        *earlier, last = sorted(readers[value], key=place.__getitem__) or (-1,)
        if not earlier or place[last] < totals.index(peak):
            continue
        needed = _ancestors(last, reads)
        for node in earlier:
            if node not in needed and place[node] < totals.index(peak) and can_wait(lifetimes, node, last):
                yield node, last
                break


def can_wait(lifetimes: Lifetimes, late: int, early: int) -> bool:
    """Whether `make_wait` can be of these nodes."""
    result, other = lifetimes.nodes[late].outputs[0], lifetimes.nodes[early].outputs[0]
    if result.dtype != other.dtype or not result.shape or not other.shape:
        return False
    # An output of the graph that nobody reads is a leaf, which the order in the file suffices for.
    if result.is_graph_output() or other.is_graph_output():
        return False
    return all(isinstance(dim, int) for dim in result.shape[1:])


def make_wait(op: Tape, late: ir.Node, early: ir.Node) -> None:
    """Let what reads the first output of *late* be executed after *early*.

    No edge of ONNX says order alone. So to what *late* computes are appended no elements of what *early* does.
    """
    assert isinstance(op.graph, ir.Graph)
    result = late.outputs[0]
    read = list(result.uses())
    count = len(op.graph)
    op.at(f"{late.name}/wait", {**late.metadata_props, PASS: "schedule"})
    none = op.Slice(op.tensor(early.outputs[0]), op.ints([0]), op.ints([0]), op.ints([0]))
    assert result.shape is not None
    sizes = [0, *(dim for dim in result.shape[1:] if isinstance(dim, int))]
    waited = op.Concat(op.tensor(result), op.Reshape(none, op.ints(sizes), allowzero=1), axis=0)
    waited.value.shape = result.shape
    move_after(late, count)
    for node, index in read:
        node.replace_input_with(index, waited.value)


def only_waits(node: ir.Node) -> bool:
    """Whether *node* reads a value for the sake of order, and takes none of its elements (see `make_wait`)."""
    return node.op_type == "Slice" and node.metadata_props.get(PASS) == "schedule"


def _readers(lifetimes: Lifetimes) -> list[list[int]]:
    """By value the nodes that read it, or a view of it."""
    readers: list[list[int]] = [[] for _ in lifetimes.values]
    source = list(range(len(lifetimes.values)))
    for index, demand in enumerate(lifetimes.demands):
        if demand.is_view and demand.source is not None:
            source[demand.outputs[0]] = source[demand.source]
        else:
            for value in dict.fromkeys(demand.reads):
                readers[source[value]].append(index)
    return readers


def _ancestors(node: int, reads: Sequence[Sequence[int]]) -> set[int]:
    found: set[int] = set()
    pending = [node]
    while pending:
        new = [producer for producer in reads[pending.pop()] if producer not in found]
        found.update(new)
        pending.extend(new)
    return found
