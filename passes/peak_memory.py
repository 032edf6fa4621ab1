"""How much memory the activations of a graph take at most, by simulating which of them live at the same time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    again.start(lifetimes.demands[node])
    live = [(str(value.name), size) for value, size in again.live.items()]
    live.append((f"workspace of {node.name}", lifetimes.demands[node].workspace))
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


class _Demand(NamedTuple):
    """What one node does to the memory, whenever it is executed.

    Attributes:
        source: the input whose memory the first output may be in, None if it must have its own.
        is_view: whether it always is; otherwise only if nothing else reads that memory any more.
        workspace: bytes beside the inputs and outputs.
    """

    reads: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    source: ir.Value | None
    is_view: bool
    workspace: int


class Lifetimes:
    """What the memory of the values of *graph* depends on, whatever the order of its nodes; see `estimate_peak`.

    Attributes:
        bytes: of each value that a node computes; none for a view of a graph input or an initializer.
        reads: how often nodes read each value, and once more for an output of the graph.
    """

    def __init__(self, graph: ir.Graph, sizes: Mapping[str, int] | None = None, *, outputs: bool = True) -> None:
        kept = frozenset(graph.outputs)
        self.bytes: dict[ir.Value, int] = {}
        self.reads = Counter(kept)
        self.demands: dict[ir.Node, _Demand] = {}
        for node in graph:
            given = node.domain == "" and node.op_type in VIEWS and node.inputs[0] not in self.bytes
            for output in node.outputs:
                size = 0 if given or (output in kept and not outputs) else size_in_bytes(output, sizes)
                self.bytes[output] = 0 if math.isinf(size) else int(size)
            demand = self.demands[node] = self._demand(node, kept)
            self.reads.update(demand.reads)

    def totals(self, order: Iterable[ir.Node]) -> list[int]:
        """The bytes that live while each node of *order* is executed."""
        execution = _Execution(self)
        return [execution.execute(node) for node in order]

    def _demand(self, node: ir.Node, kept: frozenset[ir.Value]) -> _Demand:
        reads = tuple(value for value in (*node.inputs, *captured_values(node)) if value is not None)
        first, op_type = node.outputs[0], node.op_type
        may_share = node.domain == "" and (op_type in VIEWS or op_type in IN_PLACE) and first not in kept
        source = node.inputs[0] if may_share and node.inputs else None
        workspace = int(WORKSPACE.get(op_type, 0) * self.bytes[first])
        return _Demand(reads, tuple(node.outputs), source, op_type in VIEWS, workspace)


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
        demand = self.lifetimes.demands[node]
        self.start(demand)
        most = self.total + demand.workspace
        for value in demand.reads:
            owner = self.memory.get(value)
            if owner is not None:
                self.pending[owner] -= 1
                self.release_unread(owner)
        for output in demand.outputs:
            self.release_unread(self.memory[output])
        return most

    def start(self, demand: _Demand) -> None:
        """Take the memory of what a node computes."""
        lifetimes, owner = self.lifetimes, self.shared(demand)
        for output in demand.outputs:
            if owner is None:
                owner = output
                self.pending[owner] = 0
                self.live[owner] = lifetimes.bytes[output]
                self.total += lifetimes.bytes[output]
            self.memory[output] = owner
            self.pending[owner] += lifetimes.reads.get(output, 0)
            owner = None

    def release_unread(self, owner: ir.Value) -> None:
        """Give the memory of *owner* back if nothing is to read it any more."""
        if self.pending[owner] == 0:
            self.total -= self.live.pop(owner, 0)

    def shared(self, demand: _Demand) -> ir.Value | None:
        """The owner of the memory that the first output shares, None if it gets its own."""
        owner = None if demand.source is None else self.memory.get(demand.source)
        if owner is None or demand.is_view:
            return owner
        size = self.lifetimes.bytes[demand.outputs[0]]
        return owner if self.pending[owner] <= 1 and self.live[owner] == size else None
