"""The node within the body of a Scan, Loop or If that makes a NaN or an infinity, however deep it is.

A copy of the graph watches the bodies while they run. Each body gives one vector more, its record: whether one of its
outputs is bad, which of its values have NaN, which have infinities, and the records of the nodes with bodies in it. A
Scan's or Loop's record is that of the first iteration with a bad output, after the number of that iteration. A record
has one size whatever the data are, so that records of inner loops, of as many iterations as there may be, pass through
the outer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..passes.fresh_names import FreshNames
from .device import Provider
from .finiteness import Feeds, count_values, run_as_written
from .origin import Infinities, find_origin, infinities_read

_BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}


@dataclass(frozen=True)
class Inside:
    """A node in a body.

    Attributes:
        iteration: in which one it makes the first NaN or infinity; None in a body that does not iterate.
        infinities: where those come from of which it makes NaN.
    """

    node: ir.Node
    iteration: int | None
    infinities: tuple[Infinities, ...]


def find_inside(
    model: ir.Model, node: ir.Node, kind: str, feeds: Feeds, providers: Sequence[Provider]
) -> tuple[Inside, ...]:
    """Where in a *node* of *model*'s main graph the first NaN or infinity comes from, from the outside in.

    Args:
        node: it gives one and reads none.
        kind: "NaN" or "Inf".

    Returns:
        nothing if that cannot be told: the node has no body, or the fault is not there in this run.
    """
    if node.op_type not in _BODIES:
        return ()
    watched = model.clone()
    (twin,) = [each for each in watched.graph if each.outputs[0].name == node.outputs[0].name]
    watch = _Watch(FreshNames(watched.graph).fresh, kind)
    record, branches = watch.node(twin)
    record.type = ir.TensorType(ir.DataType.INT32)
    watched.graph.outputs[:] = [record]
    (numbers,) = run_as_written(watched, feeds, providers)
    return tuple(_read(branches, numbers, kind))


@dataclass
class _Body:
    """What a body's record says: a number for the outputs, two for each of *values*, and the records of *nodes*."""

    graph: ir.Graph
    values: list[ir.Value]
    nodes: dict[ir.Node, list[_Body]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return 1 + 2 * len(self.values) + sum(_size(branches) for branches in self.nodes.values())


def _size(branches: Sequence[_Body]) -> int:
    """Of a node's record: of an If, the records of both branches; else the number of the iteration comes first."""
    return sum(body.size for body in branches) + (len(branches) == 1)


def _read(branches: Sequence[_Body], record: np.ndarray, kind: str) -> list[Inside]:
    """The path from a node to the innermost node at fault, by the node's *record*."""
    iterates = len(branches) == 1
    iteration = int(record[0]) if iterates else None
    start = int(iterates)
    for body in branches:
        own = record[start : start + body.size]
        start += body.size
        if not own[0]:
            continue
        count = len(body.values)
        with_nan = {value for value, flag in zip(body.values, own[1 : 1 + count], strict=True) if flag}
        with_infinity = {value for value, flag in zip(body.values, own[1 + count : 1 + 2 * count], strict=True) if flag}
        bad = with_nan if kind == "NaN" else with_infinity
        position = {node: index for index, node in enumerate(body.graph)}
        ends = [value for value in body.graph.outputs if value in bad]
        origin = find_origin(ends, bad.__contains__, position)
        assert isinstance(origin, ir.Node)
        infinities = infinities_read(origin, with_infinity.__contains__, position) if kind == "NaN" else ()
        offset = 1 + 2 * count
        deeper: list[Inside] = []
        for node, inner in body.nodes.items():
            if node is origin:
                deeper = _read(inner, own[offset : offset + _size(inner)], kind)
            offset += _size(inner)
        return [Inside(origin, iteration, infinities), *deeper]
    return []


class _Watch:
    """Extends graphs by their records."""

    def __init__(self, fresh: Callable[[str], str], kind: str) -> None:
        self._fresh = fresh
        self._kind = kind

    def node(self, node: ir.Node) -> tuple[ir.Value, list[_Body]]:
        """Let *node* give its record too, as a value of its graph."""
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        watched = [self.body(node.attributes[name].as_graph()) for name in _BODIES[node.op_type]]
        bodies = [body for _, body in watched]
        kept = len(node.outputs)
        node.resize_outputs(kept + len(bodies))
        given = node.outputs[kept:]
        for value, (record, body) in zip(given, watched, strict=True):
            value.name, value.type = self._fresh("record"), ir.TensorType(ir.DataType.INT32)
            # Every branch of an If gives the records of all, zeros for another's.
            for other in bodies:
                own = record if other is body else self._constant(other.graph, np.zeros(body.size, np.int32))
                own.type, own.shape = record.type, record.shape
                other.graph.outputs.append(own)
        if len(bodies) > 1:
            return self._emit(graph, "Concat", given, axis=0), bodies
        for attribute in ("scan_output_axes", "scan_output_directions"):
            if attribute in node.attributes:
                extended = [*node.attributes[attribute].as_ints(), 0]
                node.attributes[attribute] = ir.AttrInt64s(attribute, extended)
        # A row of zeros, for a loop that does not run at all.
        none = self._constant(graph, np.zeros((1, bodies[0].size), np.int32))
        rows = self._emit(graph, "Concat", [given[0], none], axis=0)
        outputs = self._emit(graph, "Gather", [rows, self._constant(graph, np.int64(0))], axis=1)
        iteration = self._emit(graph, "ArgMax", [outputs], axis=0, keepdims=1)
        row = self._emit(graph, "Gather", [rows, iteration], axis=0)
        flat = self._emit(graph, "Reshape", [row, self._constant(graph, np.array([-1]))])
        number = self._emit(graph, "Cast", [iteration], to=ir.DataType.INT32)
        return self._emit(graph, "Concat", [number, flat], axis=0), bodies

    def body(self, graph: ir.Graph) -> tuple[ir.Value, _Body]:
        """The record of *graph*, as a value of it."""
        inner = [node for node in graph if node.op_type in _BODIES]
        counted = count_values(graph, self._fresh)
        body = _Body(graph, list(counted))
        with_nan = {value: self._flag(graph, nan) for value, (nan, _) in counted.items()}
        with_infinity = {value: self._flag(graph, infinities) for value, (_, infinities) in counted.items()}
        bad = with_nan if self._kind == "NaN" else with_infinity
        of_outputs = [bad[value] for value in graph.outputs if value in bad]
        records = []
        for node in inner:
            record, body.nodes[node] = self.node(node)
            records.append(record)
        nothing = self._constant(graph, np.zeros(1, np.int32))
        together = self._emit(graph, "Concat", [nothing, *of_outputs], axis=0)
        one_is_bad = self._emit(graph, "ReduceMax", [together], keepdims=1)
        record = self._emit(
            graph, "Concat", [one_is_bad, *with_nan.values(), *with_infinity.values(), *records], axis=0
        )
        record.type, record.shape = ir.TensorType(ir.DataType.INT32), ir.Shape([body.size])
        return record, body

    def _flag(self, graph: ir.Graph, count: ir.Value) -> ir.Value:
        """1 if there are any, else 0: int32 [1]."""
        there = self._emit(graph, "Cast", [count], to=ir.DataType.BOOL)
        number = self._emit(graph, "Cast", [there], to=ir.DataType.INT32)
        return self._emit(graph, "Reshape", [number, self._constant(graph, np.array([1]))])

    def _constant(self, graph: ir.Graph, array: np.ndarray | np.generic) -> ir.Value:
        return self._emit(graph, "Constant", [], value=ir.tensor(array))

    def _emit(
        self, graph: ir.Graph, operator: str, inputs: Sequence[ir.Value], **attributes: ir.TensorProtocol | int
    ) -> ir.Value:
        node = ir.node(operator, inputs, attributes)
        node.name = node.outputs[0].name = self._fresh(f"watch/{operator}")
        graph.append(node)
        return node.outputs[0]
