"""The order in which ONNX Runtime executes the nodes of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from .subgraphs import captured_values


def execution_order(graph: ir.Graph) -> list[ir.Node]:
    """The nodes of *graph* in the order in which ONNX Runtime's sessions execute them by default.

    That is not the order in the file. The runtime walks back, depth first, from the leaves (the nodes that no other
    node reads), the last leaf of the file first, and at each node to what it reads, the last of those in the file
    first; a node is executed when all that it reads has been (`GraphViewer` and `Graph::ReverseDFSFrom` in its
    source). Nodes that the runtime's own optimizers put in the place of others count as the last in the file; what
    it fuses is not foreseen here.
    """
    return execution_order_of_file(producers_in(graph))


def execution_order_of_file(reads: Mapping[ir.Node, Sequence[ir.Node]]) -> list[ir.Node]:
    """As `execution_order`, for a file that has the nodes in the order of *reads*: what `producers_in` gives."""
    read = {producer for producers in reads.values() for producer in producers}
    pending = [node for node in reads if node not in read]
    opened: set[ir.Node] = set()
    order: dict[ir.Node, None] = {}
    while pending:
        node = pending[-1]
        if node in opened:
            order.setdefault(pending.pop())
        else:
            opened.add(node)
            pending.extend(producer for producer in reads[node] if producer not in opened)
    return list(order)


def producers_in(nodes: Iterable[ir.Node]) -> dict[ir.Node, list[ir.Node]]:
    """For each of *nodes* those among them that compute what it, or a graph within it, reads, in the same order."""
    nodes = list(nodes)
    among = set(nodes)
    reads = {}
    for node in nodes:
        producers = {value.producer() for value in (*node.inputs, *captured_values(node)) if value is not None}
        reads[node] = [producer for producer in producers if producer in among]
    return in_order(reads, nodes)


def in_order(reads: Mapping[ir.Node, Sequence[ir.Node]], nodes: Sequence[ir.Node]) -> dict[ir.Node, list[ir.Node]]:
    """What `producers_in` gives for the nodes of *reads* in the order of *nodes*."""
    position = {node: index for index, node in enumerate(nodes)}
    return {node: sorted(reads[node], key=position.__getitem__) for node in nodes}
