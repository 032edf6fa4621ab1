"""How much memory the activations of a graph take at most, by simulating which of them live at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import onnx_ir as ir

from .eliminate_common_subexpressions import is_random
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
    the operators of `IN_PLACE` write over what they read last. What is computed from constants alone is an initializer
    by then: runtimes fold it when they load the graph.

    Args:
        sizes: of symbolic dims by name; others count as `NOMINAL_SIZE`.
        order: in which the nodes are executed; that of `execution_order` if None.
    """
    lifetimes = Lifetimes(graph, sizes)
    executed = lifetimes.positions(order)
    if not executed:
        return PeakMemory(0, "", ())
    totals = lifetimes.totals(executed)
    most = max(totals)
    *before, fullest = executed[: totals.index(most) + 1]
    again = _Execution(lifetimes)
    for position in before:
        again.execute(lifetimes.demands[position])
    node, demand = lifetimes.nodes[fullest], lifetimes.demands[fullest]
    again.start(demand)
    live = [(str(value.name), size) for value, size in zip(lifetimes.values, again.live, strict=True)]
    live.append((f"workspace of {node.name}", demand.workspace))
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
    lifetimes = Lifetimes(graph, sizes, outputs=outputs)
    return lifetimes.totals(lifetimes.positions(order))


class _Demand(NamedTuple):
    """What one node does to the memory, whenever it is executed. Values go by their positions in `Lifetimes.values`.

    Attributes:
        reads: the inputs that nodes compute.
        source: the input whose memory the first output may be in, None if it must have its own.
        is_view: whether it always is; otherwise only if nothing else reads that memory any more.
        workspace: bytes beside the inputs and outputs.
    """

    reads: list[int]
    outputs: list[int]
    source: int | None
    is_view: bool
    workspace: int


class Lifetimes:
    """What the memory of the values of *graph* depends on, whatever the order of its nodes; see `estimate_peak`.

    Nodes and values go by their positions here, which are quicker to look up than they are.

    Attributes:
        nodes: of the graph, in its order.
        demands: of each node.
        values: all that nodes compute.
        makers: of each, the position of the node that computes it.
        bytes: of each; none for a constant, and for a view of a graph input or an initializer.
        reads: how often nodes read each, and once more for an output of the graph.
    """

    def __init__(self, graph: ir.Graph, sizes: Mapping[str, int] | None = None, *, outputs: bool = True) -> None:
        self.nodes = list(graph)
        self.demands: list[_Demand] = []
        self.values: list[ir.Value] = []
        self.makers: list[int] = []
        self.bytes: list[int] = []
        self.reads: list[int] = []
        self._positions: dict[ir.Value | None, int] = {}
        self._constants: set[ir.Value | None] = {None, *graph.initializers.values()} - set(graph.inputs)
        kept = frozenset(graph.outputs)
        for index, node in enumerate(self.nodes):
            given = node.domain == "" and node.op_type in VIEWS and node.inputs[0] not in self._positions
            if self._is_constant(node):
                self._constants.update(node.outputs)
                given = kept.isdisjoint(node.outputs)
            for output in node.outputs:
                size = 0 if given or (output in kept and not outputs) else size_in_bytes(output, sizes)
                self._positions[output] = len(self.values)
                self.values.append(output)
                self.makers.append(index)
                self.bytes.append(0 if math.isinf(size) else int(size))
                self.reads.append(1 if output in kept else 0)
            demand = self._demand(node, kept)
            self.demands.append(demand)
            for value in demand.reads:
                self.reads[value] += 1

    def positions(self, order: Sequence[ir.Node] | None) -> list[int]:
        """Where the nodes of *order*, that of `execution_order` if None, are in the graph."""
        position = {node: index for index, node in enumerate(self.nodes)}
        return [position[node] for node in (execution_order(self.nodes) if order is None else order)]

    def totals(self, order: Iterable[int]) -> list[int]:
        """The bytes that live while each node of *order* is executed."""
        execution = _Execution(self)
        return [execution.execute(self.demands[position]) for position in order]

    def _is_constant(self, node: ir.Node) -> bool:
        """Whether a runtime computes *node* when it loads the graph."""
        has_graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        return not has_graphs and self._constants.issuperset(node.inputs) and not is_random(node)

    def _demand(self, node: ir.Node, kept: frozenset[ir.Value]) -> _Demand:
        positions, op_type = self._positions, node.op_type
        reads = [positions[value] for value in (*node.inputs, *captured_values(node)) if value in positions]
        outputs = [positions[value] for value in node.outputs]
        may_share = node.domain == "" and (op_type in VIEWS or op_type in IN_PLACE) and node.outputs[0] not in kept
        writes_constant = op_type in IN_PLACE and node.inputs[0] in self._constants
        source = positions.get(node.inputs[0]) if may_share and node.inputs and not writes_constant else None
        workspace = int(WORKSPACE.get(op_type, 0) * self.bytes[outputs[0]])
        return _Demand(reads, outputs, source, op_type in VIEWS, workspace)


class _Execution:
    """The nodes being executed one by one."""

    def __init__(self, lifetimes: Lifetimes) -> None:
        self.lifetimes = lifetimes
        self.owner = list(range(len(lifetimes.values)))
        """Of the memory of each value."""
        self.pending = [0] * len(lifetimes.values)
        """By owner, the reads that are still to come, of all views."""
        self.live = [0] * len(lifetimes.values)
        """By owner, the bytes."""
        self.total = 0

    def execute(self, demand: _Demand) -> int:
        """Start a node and end it; how many bytes it had in between."""
        self.start(demand)
        most = self.total + demand.workspace
        for value in demand.reads:
            owner = self.owner[value]
            self.pending[owner] -= 1
            self.release_unread(owner)
        for output in demand.outputs:
            self.release_unread(self.owner[output])
        return most

    def start(self, demand: _Demand) -> None:
        """Take the memory of what a node computes."""
        lifetimes, shared = self.lifetimes, self.shared(demand)
        for output in demand.outputs:
            owner = output if shared is None else shared
            if shared is None:
                self.live[owner] = lifetimes.bytes[output]
                self.total += lifetimes.bytes[output]
            self.owner[output] = owner
            self.pending[owner] += lifetimes.reads[output]
            shared = None

    def release_unread(self, owner: int) -> None:
        """Give the memory of *owner* back if nothing is to read it any more."""
        if not self.pending[owner]:
            self.total -= self.live[owner]
            self.live[owner] = 0

    def shared(self, demand: _Demand) -> int | None:
        """The owner of the memory that the first output shares, None if it gets its own."""
        if demand.source is None:
            return None
        owner = self.owner[demand.source]
        if demand.is_view:
            return owner
        size = self.lifetimes.bytes[demand.outputs[0]]
        return owner if self.pending[owner] <= 1 and self.live[owner] == size else None
