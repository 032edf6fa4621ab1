"""How many nodes the tangents of a model take when they are written by hand, operator by operator."""

from __future__ import annotations

import onnx

from .laws import TANGENT, nodes_behind

NOT_FLOAT = frozenset("And ArgMax Equal Greater IsNaN Less Not Or Range Shape Size".split())

NODES = {
    "Div": 3,  # (da - y db) / b
    "Gelu": 10,  # Φ(x) + x φ(x), of which each is 4 nodes, their sum, and the product with dx
    "LayerNormalization": 10,  # x̂ is 2; (dx - x̂ mean(x̂ dx) - mean(dx)) is 6, and the products with 1/std and the scale
    "LeakyRelu": 4,  # a mask, a number made of it, a factor of 1 or alpha, a product
    "MaxPool": 2,  # a list, and what is picked from it
    "Pow": 3,  # p x^(p-1) dx
    "Reciprocal": 3,  # -y y dx
    "Relu": 2,  # a mask and a choice
    "Softmax": 4,  # y (dx - Σ y dx)
    "Sqrt": 2,  # dx / 2y
    "Swish": 5,  # (s + y (1 - s)) dx
    "Tanh": 3,  # (1 - y²) dx
}
"""For operators that are not linear in their first input, the nodes of the tangent that belongs to it."""
TANH_GELU = 12
"""The polynomial is 4, its derivative 2, the gate s 1, y (1 - s) 2, and two products and a sum."""


def nodes_by_hand(pushed: onnx.ModelProto) -> int:
    """The nodes of the tangents in the model *pushed* that `jvp` gave, counted on its forward part.

    A product of two things that have tangents takes two products and their sum, but for a Gemm, which sums itself; a
    bias comes along with the product that its layer takes in any case.
    """
    active = {value.name.removesuffix(TANGENT) for value in pushed.graph.input if value.name.endswith(TANGENT)}
    count = 0
    for node in nodes_behind(pushed, lambda name: not name.endswith(TANGENT)):
        indices = [index for index, name in enumerate(node.input) if name in active]
        if indices and node.op_type not in NOT_FLOAT:
            active.update(node.output)
            count += _nodes_of(node, indices)
    return count


def _nodes_of(node: onnx.NodeProto, indices: list[int]) -> int:
    kind, factors = node.op_type, len({0, 1}.intersection(indices))
    if kind in ("Add", "Sub"):
        return len(indices) - 1
    if kind == "Concat":
        return 1 + len(node.input) - len(indices)  # zeros stand for what has no tangent
    if kind in ("BatchNormalization", "Conv", "MatMul", "Mul"):
        return 2 * factors - 1
    if kind == "Gemm":
        return factors
    if kind == "LayerNormalization":
        return (NODES[kind] if 0 in indices else -1) + (2 if 1 in indices else 0)
    if kind == "Gelu" and any(attribute.s == b"tanh" for attribute in node.attribute):
        return TANH_GELU
    return 1 if kind == "Div" and indices == [0] else NODES.get(kind, 1)
