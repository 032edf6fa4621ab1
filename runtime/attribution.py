"""Which nodes of a joint graph each node of the runtime's own, optimized graph stands for.

ONNX Runtime fuses nodes, moves some, and inlines operators that it has no kernel for; what it emits carries no
metadata. But it keeps the names of the values that it still computes; by them its graph is laid over the joint graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ..compiler.program import Program
from ..passes.differentiate import FORWARD_NODE, PASS, RULE
from ..passes.eliminate_common_subexpressions import RECOMPUTE
from ..passes.errors import source_line
from ..passes.subgraphs import captured_values

Phase = Literal["forward", "backward", "recomputed"]

WITHOUT_RULE = {"accumulate": "(gradient buffers)", "differentiate": "(sums of gradients)"}
"""What the time of backward nodes that no rule emitted is counted under, by the pass that emitted them."""

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Where the runtime merges one of them with other operators, it takes most of the time."""


@dataclass(frozen=True)
class Origin:
    """Where a node of the joint graph comes from.

    Attributes:
        phase: the forward part, the backward part, or what of the forward part is computed again for the latter.
        operator: the forward operator; in the backward part the one whose rule emitted the node.
        forward_node: the name of the forward node.
    """

    phase: Phase
    operator: str
    forward_node: str


@dataclass(frozen=True)
class Attribution:
    """What a node of the optimized graph is counted under.

    Attributes:
        origin: of the principal one of the nodes that were merged into it.
        merged: the origins of all of them.
    """

    origin: Origin
    merged: frozenset[Origin]


class JointGraph:
    """The nodes of a program's joint graph and their origins."""

    def __init__(self, program: Program) -> None:
        self._graph = program.executable().graph
        self._nodes = {node.name: node for node in self._graph if node.name}
        self._values = {str(value.name): value for node in self._graph for value in node.outputs if value.name}
        self._position = {node: index for index, node in enumerate(self._graph)}
        # A joint graph that was compiled again carries the metadata of the first time in its forward part.
        self._forward = {str(value.name) for node in program.forward(loss=True).graph for value in node.outputs}

    def origin(self, node: ir.Node) -> Origin:
        """Where *node* comes from."""
        name = node.name or str(node.outputs[0].name)
        metadata = node.metadata_props
        emitter = metadata.get(PASS)
        lowered = emitter is None and RULE in metadata
        if emitter == "attach_loss" or lowered:
            return Origin("forward", metadata.get(RULE, node.op_type), metadata.get(FORWARD_NODE, name))
        if node.outputs[0].name in self._forward or emitter is None:
            return Origin("forward", node.op_type, name)
        if RECOMPUTE in metadata:
            return Origin(
                "recomputed", metadata.get(RULE, node.op_type), metadata.get(FORWARD_NODE, metadata[RECOMPUTE])
            )
        if RULE in metadata:
            return Origin("backward", metadata[RULE], metadata[FORWARD_NODE])
        return Origin("backward", WITHOUT_RULE.get(str(emitter), f"({emitter})"), name)

    def source_lines(self) -> dict[str, str]:
        """The lines of the exported program that forward nodes come from, by the nodes' names, where known."""
        lines = ((node.name or str(node.outputs[0].name), source_line(node)) for node in self._graph)
        return {name: line for name, line in lines if line is not None}

    def attribute(self, optimized: ir.Graph) -> dict[ir.Node, Attribution]:
        """For each node of *optimized* what it is counted under; a node that cannot be told is left out."""
        there = {str(value.name) for value in (*optimized.inputs, *optimized.initializers.values())}
        there |= {str(value.name) for node in optimized for value in node.outputs}
        running = {node.name for node in optimized if node.name}
        readers: dict[ir.Value, list[ir.Node]] = {}
        for node in optimized:
            for value in (*node.inputs, *captured_values(node)):
                if value is not None:
                    readers.setdefault(value, []).append(node)
        merged: dict[ir.Node, frozenset[ir.Node]] = {}
        for node in reversed(list(optimized)):
            found = frozenset(each for value in node.outputs for each in self._computing(str(value.name), there))
            # A node that still runs, on other values than before, is not what this one stands for.
            found = frozenset(each for each in found if each.name == node.name or each.name not in running) or found
            if not found and node.name in self._nodes:
                found = frozenset({self._nodes[node.name]})
            if not found:
                # A value that only the runtime knows belongs to what is made of it.
                later = [reader for value in node.outputs for reader in readers.get(value, ()) if reader in merged]
                found = merged[later[0]] if later else found
            if found:
                merged[node] = found
        return {
            node: Attribution(self.origin(self._principal(node, nodes)), frozenset(map(self.origin, nodes)))
            for node, nodes in merged.items()
        }

    def _computing(self, name: str, there: set[str]) -> Iterator[ir.Node]:
        """The nodes that compute the value *name* from values whose names are *there*."""
        value = self._values.get(name)
        stack = [] if value is None else [value.producer()]
        seen = set()
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            yield node
            reads = (*node.inputs, *captured_values(node))
            stack += [read.producer() for read in reads if read is not None and read.name not in there]

    def _principal(self, optimized: ir.Node, merged: frozenset[ir.Node]) -> ir.Node:
        """The one of *merged* that most of the work is for: a FusedConv is a Conv, whatever follows it."""

        def rank(node: ir.Node) -> tuple[bool, int, bool, int]:
            alike = len(node.op_type) if node.op_type in optimized.op_type else 0
            return node.op_type in PRODUCTS, alike, node.name == optimized.name, self._position[node]

        return max(merged, key=rank)
