"""How much arithmetic a graph takes: the cost model of the operators, by their shapes.

A multiplication and the addition that follows it are two floating-point operations. Matrix products and convolutions
are counted by their definition, whatever algorithm a runtime computes them with. All else is counted by its elements,
read or written, whichever are more; an elementary function counts as one. What only moves elements counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from .einsum_equations import explicit_labels
from .memory_of_values import NOMINAL_SIZE, VIEWS, size_of_dim
from .subgraphs import Iteration
from .substitution import subgraphs_of

MOVES = VIEWS | frozenset(
    "Cast CastLike Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Gather GatherElements GatherND "
    "If NonZero OneHot Optional OptionalGetElement OptionalHasElement Pad RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike Range ReverseSequence Shape Size Slice SpaceToDepth Split Tile Transpose Trilu Unique".split()
)
"""Operators that compute nothing themselves; those of sequences are among them too."""

PER_ELEMENT = {
    "BatchNormalization": 4,
    "Gelu": 5,
    "GroupNormalization": 7,
    "HardSwish": 4,
    "InstanceNormalization": 7,
    "LRN": 6,
    "LayerNormalization": 7,
    "LogSoftmax": 5,
    "LpNormalization": 4,
    "MeanVarianceNormalization": 7,
    "Mish": 4,
    "RMSNormalization": 5,
    "Softmax": 5,
    "SoftmaxCrossEntropyLoss": 6,
    "Swish": 3,
}
"""What composite operators take for each element; any other operator takes one."""


@dataclass(frozen=True)
class Flops:
    """Numbers of floating-point operations.

    Attributes:
        products: in matrix products and convolutions.
        others: in all else.
    """

    products: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        return self.products + self.others

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.products + other.products, self.others + other.others)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.products * times, self.others * times)


def count_flops(nodes: Iterable[ir.Node], sizes: Mapping[str, int] | None = None) -> Flops:
    """The arithmetic of *nodes* (a graph, for instance), subgraphs included: a body as often as it is run.

    Of an If the branch that takes more is counted. A value of unknown rank counts nothing.

    Args:
        sizes: of symbolic dims by name; others, and numbers of iterations that are not known, count as `NOMINAL_SIZE`.
    """
    return _Counter(sizes or {}).total(nodes)


class _Counter:
    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes

    def total(self, nodes: Iterable[ir.Node]) -> Flops:
        return sum(map(self.node, nodes), Flops())

    def node(self, node: ir.Node) -> Flops:
        if node.op_type in ("Scan", "Loop"):
            return self.total(node.attributes["body"].as_graph()) * self.iterations(node)
        if node.op_type == "If":
            branches = [self.total(graph) for each in node.attributes.values() for graph in subgraphs_of(each)]
            return max(branches, key=lambda flops: flops.total)
        count = _PRODUCTS.get(node.op_type)
        if count is not None:
            return count(self, node)
        if node.op_type in MOVES or node.op_type.startswith(("Sequence", "SplitToSequence", "ConcatFromSequence")):
            return Flops()
        if node.op_type.startswith("Scatter"):
            return Flops(
                others=self.elements(_input(node, 2)) if _attribute(node, "reduction", "none") != "none" else 0
            )
        per_element = PER_ELEMENT.get(node.op_type, 1)
        if node.op_type in ("AveragePool", "LpPool", "MaxPool"):
            return Flops(others=math.prod(_attribute(node, "kernel_shape", ())) * self.elements(node.outputs[0]))
        return Flops(others=per_element * max(self.elements(v) for v in (*node.inputs[:1], *node.outputs[:1])))

    def iterations(self, node: ir.Node) -> int:
        """How often the body of *node* is run."""
        limit = _input(node, 0) if node.op_type == "Loop" else None
        if limit is not None and limit.const_value is not None:
            return int(limit.const_value.numpy())
        iteration = Iteration.of(node)
        for stack in (*iteration.read, *iteration.given):
            shape = self.shape(stack.stacked)
            if shape:
                return shape[stack.axis]
        return NOMINAL_SIZE

    def shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        return None if value is None or value.shape is None else tuple(size_of_dim(d, self.sizes) for d in value.shape)

    def elements(self, value: ir.Value | None) -> int:
        shape = self.shape(value)
        return 0 if shape is None else math.prod(shape)

    def matmul(self, node: ir.Node) -> Flops:
        return Flops(2 * self.elements(node.outputs[0]) * (self.shape(node.inputs[0]) or (0,))[-1])

    def gemm(self, node: ir.Node) -> Flops:
        inner = (self.shape(node.inputs[0]) or (0, 0))[0 if _attribute(node, "transA", 0) else 1]
        elements = self.elements(node.outputs[0])
        return Flops(2 * elements * inner, 0 if _input(node, 2) is None else elements)

    def convolution(self, node: ir.Node, *, signal: ir.Value | None, kernel: int = 1) -> Flops:
        """Each element of *signal*, the shorter one, meets a kernel."""
        window = math.prod((self.shape(_input(node, kernel)) or (0,))[1:])
        biased = node.op_type in ("Conv", "ConvTranspose") and _input(node, 2) is not None
        return Flops(2 * self.elements(signal) * window, self.elements(node.outputs[0]) if biased else 0)

    def einsum(self, node: ir.Node) -> Flops:
        """All operands in one nest of loops over all labels."""
        shapes = [shape for value in node.inputs if (shape := self.shape(value)) is not None]
        if len(shapes) < len(node.inputs):
            return Flops()
        terms, _ = explicit_labels(_attribute(node, "equation", ""), list(map(len, shapes)))
        ranges: dict[str, int] = {}
        for term, shape in zip(terms, shapes, strict=True):
            for label, size in zip(term, shape, strict=True):
                ranges[label] = max(size, ranges.get(label, 1))
        operations = len(terms) * math.prod(ranges.values())
        return Flops(operations) if len(terms) > 1 else Flops(others=operations)

    def recurrent(self, node: ir.Node) -> Flops:
        """The products with W and R; and for each gate two biases, a sum and an activation."""
        steps, batch, _ = self.shape(node.inputs[0]) or (0, 0, 0)
        weights = self.elements(_input(node, 1)) + self.elements(_input(node, 2))
        gates = math.prod((self.shape(_input(node, 1)) or (0,))[:2])
        return Flops(2 * steps * batch * weights, 4 * steps * batch * gates)

    def attention(self, node: ir.Node) -> Flops:
        """The scores, their softmax, and its product with the values."""
        query, key, past = self.shape(_input(node, 0)), self.shape(_input(node, 1)), self.shape(_input(node, 4))
        if not query or not key:
            return Flops()
        keys = key[-2] + (past[-2] if past else 0)
        heads = query[1] if len(query) == 4 else _attribute(node, "q_num_heads", 1)
        scores = query[0] * heads * query[-2] * keys
        products = 2 * keys * (math.prod(query) + self.elements(node.outputs[0]))
        return Flops(products, (PER_ELEMENT["Softmax"] + 1) * scores)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


_PRODUCTS: Mapping[str, Callable[[_Counter, ir.Node], Flops]] = {
    "Attention": _Counter.attention,
    "Conv": lambda counter, node: counter.convolution(node, signal=node.outputs[0]),
    "ConvInteger": lambda counter, node: counter.convolution(node, signal=node.outputs[0]),
    "ConvTranspose": lambda counter, node: counter.convolution(node, signal=node.inputs[0]),
    "DeformConv": lambda counter, node: counter.convolution(node, signal=node.outputs[0]),
    "Einsum": _Counter.einsum,
    "GRU": _Counter.recurrent,
    "Gemm": _Counter.gemm,
    "LSTM": _Counter.recurrent,
    "MatMul": _Counter.matmul,
    "MatMulInteger": _Counter.matmul,
    "QLinearConv": lambda counter, node: counter.convolution(node, signal=node.outputs[0], kernel=3),
    "QLinearMatMul": _Counter.matmul,
    "RNN": _Counter.recurrent,
}
