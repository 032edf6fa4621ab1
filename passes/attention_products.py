"""Where a graph computes attention as two products of matrices with a softmax between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from .tape import Tape, Tensor

IsLong = Callable[[int | ir.SymbolicDim, int | ir.SymbolicDim], bool]
"""Whether a matrix of queries × keys of these sizes is wanted."""

_ELEMENTWISE = frozenset(
    "Abs Add And Cast Clip Div Equal Erf Exp Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Log Max Min "
    "Mod Mul Neg Not Or Pow Reciprocal Relu Sigmoid Sign Softplus Softsign Sqrt Sub Sum Tanh Where Xor".split()
)


@dataclass(frozen=True)
class AttentionProducts:
    """Nodes that compute softmax(… Q Kᵀ …) V, in any order of scale, soft cap and masks.

    Each row of what they compute depends on that row of the queries and masks alone.

    Attributes:
        nodes: in order; the last is the product with V.
        rows: what they read from outside that has the axis of the queries, the last but one: Q, and masks.
    """

    nodes: tuple[ir.Node, ...]
    rows: tuple[ir.Value, ...]

    @property
    def probabilities(self) -> ir.Value:
        value = self.nodes[-1].inputs[0]
        assert value is not None
        return value

    def emit(self, body: Tape, blocks: Sequence[Tensor]) -> Tensor:
        """Emit the nodes for some of the queries, given that part of each of `rows`."""
        parts = dict(zip(self.rows, blocks, strict=True))
        for node in self.nodes:
            inputs: list[Tensor | None] = []
            for index, value in enumerate(node.inputs):
                part = None if value is None or _is_of_keys(node, index) else parts.get(value)
                inputs.append(body.tensor(value) if part is None and value is not None else part)
            attributes: dict[str, Any] = dict(node.attributes)
            parts[node.outputs[0]] = result = body.emit(node.op_type, *inputs, **attributes)
        return result


def find_attention_products(
    graph: ir.Graph, is_long: IsLong, protected: Collection[str] = ()
) -> Iterator[AttentionProducts]:
    """The attentions of *graph* that are computed so, and of which nothing else reads an inner result.

    Args:
        protected: names of values that must stay.
    """
    scores: set[ir.Value] = set()
    for node in graph:
        if node.domain != "":
            continue
        if node.op_type == "MatMul" and node.inputs[0] in scores:
            found = _between(node, scores, protected)
            if found is not None:
                yield found
        if _gives_scores(node, scores) and is_long(*_matrix(node.outputs[0])):
            scores.add(node.outputs[0])


def _gives_scores(node: ir.Node, scores: Collection[ir.Value]) -> bool:
    """Whether the output is a matrix of queries × keys: a product, or computed from another such row by row."""
    output = node.outputs[0].shape
    if output is None or len(output) < 2:
        return False
    if node.op_type == "MatMul":
        queries = node.inputs[0]
        return queries is not None and queries.shape is not None and len(queries.shape) >= 2
    if node.op_type == "Softmax":
        return node.inputs[0] in scores and node.attributes.get_int("axis", -1) in (-1, len(output) - 1)
    read = [value for value in node.inputs if value in scores]
    return node.op_type in _ELEMENTWISE and any(_matrix(value) == _matrix(node.outputs[0]) for value in read if value)


def _between(last: ir.Node, scores: Collection[ir.Value], protected: Collection[str]) -> AttentionProducts | None:
    found, pending = {last}, [last.inputs[0]]
    while pending:
        value = pending.pop()
        node = value.producer() if value in scores and value is not None else None
        if node is not None and node not in found:
            found.add(node)
            pending.extend(node.inputs if node.op_type != "MatMul" else ())
    if not any(node.op_type == "Softmax" for node in found):
        return None
    inner = [node.outputs[0] for node in found if node is not last]
    if last.inputs[1] in inner or any(_is_needed_outside(value, found, protected) for value in inner):
        return None
    assert last.graph is not None
    nodes = [node for node in last.graph if node in found]
    rows = _rows(nodes, set(inner))
    return None if rows is None else AttentionProducts(tuple(nodes), tuple(rows))


def _rows(nodes: Sequence[ir.Node], inner: Collection[ir.Value]) -> list[ir.Value] | None:
    """What *nodes* read from outside that has the axis of the queries; None where that cannot be told."""
    queries = _matrix(nodes[-1].outputs[0])[0]
    rows: dict[ir.Value, None] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value in inner or _is_of_keys(node, index):
                continue
            if value.shape is None:
                return None
            if len(value.shape) < 2 or value.shape[-2] == 1:
                continue
            if value.shape[-2] != queries:
                return None
            rows[value] = None
    return list(rows)


def _is_of_keys(node: ir.Node, index: int) -> bool:
    """Whether the input is K or V, which every query needs whole."""
    return node.op_type == "MatMul" and index == 1


def _is_needed_outside(value: ir.Value, nodes: Collection[ir.Node], protected: Collection[str]) -> bool:
    return value.is_graph_output() or value.name in protected or any(user not in nodes for user in value.consumers())


def _matrix(value: ir.Value) -> tuple[int | ir.SymbolicDim, int | ir.SymbolicDim]:
    assert value.shape is not None
    return value.shape[-2], value.shape[-1]
