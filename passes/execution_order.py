"""The order in which ONNX Runtime executes the nodes of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from .subgraphs import captured_values


def execution_order(graph: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes of *graph* in the order in which ONNX Runtime's sessions execute them by default.

    That is not the order in the file. The runtime walks back, depth first, from the leaves (the nodes that no other
    node reads), the last leaf of the file first, and at each node to what it reads, the last of those in the file
    first; a node is executed when all that it reads has been (`GraphViewer` and `Graph::ReverseDFSFrom` in its
    source). Nodes that the runtime's own optimizers put in the place of others count as the last in the file; what
    it fuses is not foreseen here.
    """
    nodes = list(graph)
    return [nodes[index] for index in execution_order_of_file(_reads(nodes), range(len(nodes)))]


def execution_order_of_file(reads: Sequence[Sequence[int]], file: Sequence[int]) -> list[int]:
    """As `execution_order`, of nodes that are known by their positions.

    Args:
        reads: for each node those that compute what it, or a graph within it, reads, ascending.
        file: the order of the nodes in the file.
    """
    place = [0] * len(file)
    for index, node in enumerate(file):
        place[node] = index
    read = {producer for producers in reads for producer in producers}
    pending = [node for node in file if node not in read]
    opened, executed = bytearray(len(file)), bytearray(len(file))
    order: list[int] = []
    while pending:
        node = pending[-1]
        if not opened[node]:
            opened[node] = True
            pending += sorted([producer for producer in reads[node] if not opened[producer]], key=place.__getitem__)
        else:
            pending.pop()
            if not executed[node]:
                executed[node] = True
                order.append(node)
    return order


def producers_in(nodes: Iterable[ir.Node]) -> dict[ir.Node, list[ir.Node]]:
    """For each of *nodes* those among them that compute what it, or a graph within it, reads, in the same order."""
    nodes = list(nodes)
    return {node: [nodes[index] for index in read] for node, read in zip(nodes, _reads(nodes), strict=True)}


def _reads(nodes: Sequence[ir.Node]) -> list[list[int]]:
    """As `producers_in`, with the position of each node in its place."""
    computed: dict[ir.Value | None, int] = {v: index for index, node in enumerate(nodes) for v in node.outputs}
    return [
        sorted({computed[value] for value in (*node.inputs, *captured_values(node)) if value in computed})
        for node in nodes
    ]
