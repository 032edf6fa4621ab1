"""The order in which ONNX Runtime executes the nodes of a graph."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from .subgraphs import captured_values


def execution_order(graph: ir.Graph, nodes: Iterable[ir.Node] | None = None) -> list[ir.Node]:
    """The nodes of *graph* in the order in which ONNX Runtime's sessions execute them by default.

    That is not the order in the file. The runtime walks back, depth first, from the leaves (the nodes that no other
    node reads), the last leaf of the file first, and at each node to what it reads, the last of those in the file
    first; a node is executed when all that it reads has been (`GraphViewer` and `Graph::ReverseDFSFrom` in its
    source). Nodes that the runtime's own optimizers put in the place of others count as the last in the file; what
    it fuses is not foreseen here.

    Args:
        nodes: those of the graph in the order of a file to be; as they are in the graph if None.
    """
    reads = producers_in(graph if nodes is None else nodes)
    read = {producer for producers in reads.values() for producer in producers}
    pending = [(node, False) for node in reads if node not in read]
    order: list[ir.Node] = []
    visited: set[ir.Node] = set()
    while pending:
        node, done = pending.pop()
        if done:
            order.append(node)
        elif node not in visited:
            visited.add(node)
            pending.append((node, True))
            pending.extend((producer, False) for producer in reads[node] if producer not in visited)
    return order


def producers_in(nodes: Iterable[ir.Node]) -> dict[ir.Node, list[ir.Node]]:
    """For each of *nodes* those among them that compute what it, or a graph within it, reads, in the same order."""
    position = {node: index for index, node in enumerate(nodes)}
    reads = {}
    for node in position:
        values = (value for value in (*node.inputs, *captured_values(node)) if value is not None)
        producers = {producer for value in values if (producer := value.producer()) in position}
        reads[node] = sorted((p for p in producers if p is not None), key=position.__getitem__)
    return reads
