"""Which forward values are kept for the backward part, and which are computed again from those."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from .differentiate import PASS
from .eliminate_common_subexpressions import RECOMPUTE
from .fresh_names import FreshNames
from .memory_of_values import VIEWS, memory_of, size_in_bytes

CHEAP = VIEWS | frozenset(
    "Abs Add And Cast CastLike Ceil Clip DequantizeLinear Div Equal Expand Floor Greater GreaterOrEqual IsInf IsNaN "
    "LayerNormalization Less LessOrEqual Max Min Mul Neg Not Or Reciprocal Relu Round Sigmoid Sign Slice Sub Tile "
    "Transpose Trilu Where Xor".split()
)
"""Operators that take hardly longer than writing their output does."""
MOST_WORK = 2.0
"""The most bytes that may be written again for each byte that is not kept."""
LEAST_SAVED = 1 << 16
"""The fewest bytes that are worth running a node again."""
LARGEST_BASIS = 1024
"""The most elements of a constant matrix with which a product is a cheap change of basis, as of Winograd's tiles."""
LONGEST_CHAIN = 8
"""The most nodes, one reading the other, that are repeated for one value."""


class ChooseResiduals(ir.passes.InPlacePass):
    """Recompute in the backward part what is cheap to have from values that are smaller, or kept in any case.

    The forward values that the backward part reads stay in memory from the one to the other. A key that
    grouped-query attention repeats for each of its heads, or a product whose factors are both kept, need not. One
    value after the other, in the order of the forward part, the alternative of the fewest bytes is taken: to keep
    the value, or what it is made of by operators of `CHEAP`. Nothing random is ever computed again. On the networks of
    the benchmark this keeps as few bytes as a minimum cut does, where nothing bounds the work (`MOST_WORK`).

    Args:
        forward: the names of the values of the forward part.

    Requires: shapes are inferred. Guarantees: no value changes. A repeated node is named after the first, with
    `/recompute`, and marked with the metadata key `RECOMPUTE`, since a merge of equal nodes would undo the choice: a
    runtime must be told not to (ONNX Runtime: `disabled_optimizers=["CommonSubexpressionElimination"]`).
    """

    def __init__(self, forward: Collection[str]) -> None:
        self._forward = frozenset(forward)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        choice = _Choice(model.graph, self._forward)
        choice.decide()
        choice.repeat()
        return ir.passes.PassResult(model, bool(choice.recomputed))


@dataclass(frozen=True)
class _Plan:
    """One way to have a value in the backward part."""

    kept: frozenset[ir.Value] = frozenset()
    """Values that must be kept for it and would not be otherwise."""
    repeated: tuple[ir.Node, ...] = ()
    """Nodes to run again, each after those it reads."""

    @property
    def bytes(self) -> float:
        return sum(size_in_bytes(value) for value in self.kept)

    @property
    def work(self) -> float:
        """Bytes that are written again. Some operators are slower than copying."""
        weights = {"LayerNormalization": 2, "Sigmoid": 2, "Transpose": 2, **dict.fromkeys(VIEWS, 0)}
        return sum(weights.get(node.op_type, 1) * size_in_bytes(node.outputs[0]) for node in self.repeated)


class _Choice:
    def __init__(self, graph: ir.Graph, forward: frozenset[str]) -> None:
        self.graph = graph
        self.position = {node: index for index, node in enumerate(graph)}
        self.backward = {
            node
            for node in graph
            if node.metadata_props.get(PASS) == "differentiate" and node.outputs[0].name not in forward
        }
        self.kept: set[ir.Value] = set()
        self.recomputed: set[ir.Node] = set()

    def decide(self) -> None:
        """Fill `recomputed`."""
        self.kept.update(memory_of(value) for value in self.graph.outputs)
        for node in self.graph:
            if node in self.backward:
                continue
            for value in node.outputs:
                if self.readers(value):
                    self.decide_on(value)

    def decide_on(self, value: ir.Value) -> None:
        if self.is_there(value):
            return
        plan = self.by_repeating(value, LONGEST_CHAIN)
        saved = size_in_bytes(value) - plan.bytes
        if LEAST_SAVED <= saved < math.inf and 0 < plan.work <= MOST_WORK * saved:
            self.kept |= plan.kept
            self.recomputed |= set(plan.repeated)
        else:
            self.kept.add(memory_of(value))

    def best(self, value: ir.Value, longest: int) -> _Plan:
        """The plan of the fewest bytes."""
        if self.is_there(value):
            return _Plan()
        repeated = self.by_repeating(value, longest)
        return repeated if repeated.bytes < size_in_bytes(value) else _keep(value)

    def by_repeating(self, value: ir.Value, longest: int) -> _Plan:
        node = value.producer()
        if node is None or longest == 0 or not _is_cheap(node) or value is not node.outputs[0]:
            return _keep(value)
        plans = [self.best(read, longest - 1) for read in node.inputs if read is not None]
        repeated = dict.fromkeys(earlier for plan in plans for earlier in plan.repeated)
        return _Plan(frozenset().union(*(plan.kept for plan in plans)), (*repeated, node))

    def is_there(self, value: ir.Value) -> bool:
        """Whether the backward part has *value* without anything more being kept or repeated."""
        memory = memory_of(value)
        return memory in self.kept or memory.producer() is None or value.producer() in self.recomputed

    def readers(self, value: ir.Value) -> list[ir.Node]:
        """The backward nodes that read *value*."""
        return [reader for reader in value.consumers() if reader in self.backward]

    def repeat(self) -> None:
        """Repeat the recomputed nodes, each right before what reads it first."""
        names = FreshNames(self.graph)
        copies: dict[ir.Node, ir.Node] = {}
        heads: dict[int, ir.Node] = {}  # by the position of a backward node, the first copy that stands before it
        for node in sorted(self.recomputed, key=self.position.__getitem__, reverse=True):
            value = node.outputs[0]
            readers = [*self.readers(value), *(copies[r] for r in value.consumers() if r in copies)]
            first = min(readers, key=self.position.__getitem__)
            copy = copies[node] = _copy(node, names)
            place = self.position[copy] = self.position[first]
            # What reads the copy was placed before, so that it goes before all that stand there.
            self.graph.insert_before(heads.get(place, first), copy)
            heads[place] = copy
            for reader in readers:
                for index, read in enumerate(reader.inputs):
                    if read is value:
                        reader.replace_input_with(index, copy.outputs[0])


def _is_cheap(node: ir.Node) -> bool:
    return node.domain == "" and (node.op_type in CHEAP or changes_basis(node))


def changes_basis(node: ir.Node) -> bool:
    """Whether *node* multiplies by a constant matrix so small that it hardly takes longer than writing the product."""
    if node.op_type not in ("Gemm", "MatMul"):
        return False
    constants = [v for v in node.inputs if v is not None and v.const_value is not None and not v.is_graph_input()]
    return any(v.const_value is not None and v.const_value.size <= LARGEST_BASIS for v in constants)


def _keep(value: ir.Value) -> _Plan:
    return _Plan(frozenset({memory_of(value)}))


def _copy(node: ir.Node, names: FreshNames) -> ir.Node:
    output = node.outputs[0]
    metadata = {**node.metadata_props, PASS: "choose_residuals", RECOMPUTE: node.name or str(output.name)}
    return ir.Node(
        node.domain,
        node.op_type,
        node.inputs,
        node.attributes.values(),
        outputs=[ir.Value(name=names.fresh(f"{output.name}.recompute"), type=output.type, shape=output.shape)],
        name=names.fresh(f"{node.name or output.name}/recompute"),
        metadata_props=metadata,
    )
