"""Which integer inputs of a graph are indices, and how large they may be."""

from __future__ import annotations

import onnx_ir as ir

_SAME_INDICES = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose first input holds the same indices as their output."""


def find_index_bounds(graph: ir.Graph) -> dict[str, int]:
    """For graph inputs that index an axis of known size (tokens, class labels): that size, the least of several.

    Inputs are followed through operators that only move indices, and through a Where that replaces some of them.
    """
    bounds = {}
    for value in graph.inputs:
        if value.dtype is not None and value.dtype.is_integer():
            sizes = _indexed_sizes(value)
            if sizes:
                bounds[str(value.name)] = min(sizes)
    return bounds


def _indexed_sizes(value: ir.Value) -> list[int]:
    sizes, values, seen = [], [value], {value}
    while values:
        for node, index in values.pop().uses():
            size = _indexed_size(node, index)
            if size is not None:
                sizes.append(size)
            moved = (node.op_type in _SAME_INDICES and index == 0) or (node.op_type == "Where" and index > 0)
            if moved and node.domain == "" and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                values.append(node.outputs[0])
    return sizes


def _indexed_size(node: ir.Node, index: int) -> int | None:
    """The size of the axis that input *index* of *node* indexes, None if it is no index or the size is unknown."""
    if node.domain != "" or index != 1:
        return None
    if node.op_type in ("Gather", "GatherElements"):
        axis = node.attributes.get_int("axis", 0)
    elif node.op_type in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"):
        axis = 1
    else:
        return None
    indexed = node.inputs[0]
    shape = None if indexed is None else indexed.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size = shape[axis]
    return size if isinstance(size, int) and size > 0 else None
