"""How much memory the activations of a graph take at most, by simulating which of them live at the same time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .execution_order import execution_order
from .memory_of_values import VIEWS, size_in_bytes
from .subgraphs import captured_values

IN_PLACE = frozenset(
    "Cast Clip Elu HardSigmoid LeakyRelu LogSoftmax Relu ScatterElements Selu Sigmoid Softmax Softplus Tanh "
    "ThresholdedRelu".split()
)
"""Operators that ONNX Runtime's CPU provider computes in the memory of their first input if nothing reads it later.

Measured; arithmetic and most elementary functions are not among them.
"""
WORKSPACE = {"Where": 2.0}
"""What an operator needs beside its inputs and outputs while it runs, in sizes of its output; measured likewise."""


@dataclass(frozen=True)
class PeakMemory:
    """The most that lives at one time.

    Attributes:
        bytes: of all values that live then, graph outputs included, graph inputs and initializers not.
        node: the name of the node that is being executed.
        live: the values, each with its bytes, the largest first. A value whose size cannot be told counts nothing.
    """

    bytes: int
    node: str
    live: tuple[tuple[str, int], ...]


def estimate_peak(
    graph: ir.Graph, sizes: Mapping[str, int] | None = None, order: Sequence[ir.Node] | None = None
) -> PeakMemory:
    """Simulate the lifetimes of the values of *graph* as ONNX Runtime's CPU provider makes them.

    A value's memory is taken when its node starts, and given back when its last reader is done. Views share it, and
    the operators of `IN_PLACE` write over what they read last.

    Args:
        sizes: of symbolic dims by name; others count as `NOMINAL_SIZE`.
        order: in which the nodes are executed; that of `execution_order` if None.
    """
    order = execution_order(graph) if order is None else order
    if not order:
        return PeakMemory(0, "", ())
    lifetimes = Lifetimes(graph, sizes)
    totals = lifetimes.totals(order)
    most = max(totals)
    again = _Execution(lifetimes)
    for node in order[: totals.index(most)]:
        again.execute(node)
    node = order[totals.index(most)]
    again.start(node)
    live = [(str(value.name), size) for value, size in again.live.items()]
    live.append((f"workspace of {node.name}", lifetimes.workspace(node)))
    largest = sorted((item for item in live if item[1]), key=lambda item: (-item[1], item[0]))
    return PeakMemory(most, node.name or node.op_type, tuple(largest))


def totals_in_bytes(
    graph: ir.Graph,
    sizes: Mapping[str, int] | None = None,
    order: Sequence[ir.Node] | None = None,
    *,
    outputs: bool = True,
) -> list[int]:
    """What lives while each node of *order* is executed, with or without graph *outputs*; see `estimate_peak`."""
    order = execution_order(graph) if order is None else order
    return Lifetimes(graph, sizes, outputs=outputs).totals(order)


class Lifetimes:
    """What the memory of the values of *graph* depends on, whatever the order of its nodes; see `estimate_peak`."""

    def __init__(self, graph: ir.Graph, sizes: Mapping[str, int] | None = None, *, outputs: bool = True) -> None:
        self._sizes = sizes
        self._bytes: dict[ir.Value, int] = {}
        self.outputs = frozenset(graph.outputs)
        self.reads = {
            node: [value for value in (*node.inputs, *captured_values(node)) if value is not None] for node in graph
        }
        self.readers = Counter(value for values in self.reads.values() for value in values)
        if not outputs:
            self._bytes.update(dict.fromkeys(self.outputs, 0))

    def totals(self, order: Iterable[ir.Node]) -> list[int]:
        """The bytes that live while each node of *order* is executed."""
        execution = _Execution(self)
        return [execution.execute(node) for node in order]

    def bytes(self, value: ir.Value) -> int:
        size = self._bytes.get(value)
        if size is None:
            exact = size_in_bytes(value, self._sizes)
            size = self._bytes[value] = 0 if math.isinf(exact) else int(exact)
        return size

    def workspace(self, node: ir.Node) -> int:
        share = WORKSPACE.get(node.op_type)
        return 0 if share is None else int(share * self.bytes(node.outputs[0]))


class _Execution:
    """The nodes being executed one by one."""

    def __init__(self, lifetimes: Lifetimes) -> None:
        self.lifetimes = lifetimes
        self.memory: dict[ir.Value, ir.Value] = {}
        """The owner of the memory of each value that was computed."""
        self.pending: dict[ir.Value, int] = {}
        """By owner, the reads that are still to come, of all views."""
        self.live: dict[ir.Value, int] = {}
        """By owner, the bytes."""
        self.total = 0

    def execute(self, node: ir.Node) -> int:
        """Start *node* and end it; how many bytes it had in between."""
        self.start(node)
        most = self.total + self.lifetimes.workspace(node)
        for value in self.lifetimes.reads[node]:
            if value in self.memory:
                owner = self.memory[value]
                self.pending[owner] -= 1
                self.release_unread(owner)
        for output in node.outputs:
            self.release_unread(self.memory[output])
        return most

    def start(self, node: ir.Node) -> None:
        """Take the memory of what *node* computes."""
        lifetimes = self.lifetimes
        for index, output in enumerate(node.outputs):
            owner = self.shared(node, output) if index == 0 else None
            if owner is None:
                owner = output
                self.live[output] = lifetimes.bytes(output)
                self.total += self.live[output]
            self.memory[output] = owner
            reads = lifetimes.readers[output] + (output in lifetimes.outputs)
            self.pending[owner] = self.pending.get(owner, 0) + reads

    def release_unread(self, owner: ir.Value) -> None:
        """Give the memory of *owner* back if nothing is to read it any more."""
        if self.pending[owner] == 0:
            self.total -= self.live.pop(owner, 0)

    def shared(self, node: ir.Node, output: ir.Value) -> ir.Value | None:
        """The owner of the memory that *output* is to share, None if it gets its own."""
        if node.domain != "" or not node.inputs or output in self.lifetimes.outputs:
            return None
        source = node.inputs[0]
        owner = self.memory.get(source) if source is not None else None
        if owner is None or node.op_type in VIEWS:
            return owner
        if node.op_type not in IN_PLACE or self.pending[owner] > 1 or self.live[owner] != self.lifetimes.bytes(output):
            return None
        return owner
