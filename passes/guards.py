"""Singular operators behind a Where: what was not picked must not turn the gradient into NaN."""

from __future__ import annotations

import onnx_ir as ir

from .registry import Registry, Rule
from .tape import Tensor

_ELEMENTWISE = frozenset(
    "Abs Add Cast Clip Cos Div Exp Identity Log Max Min Mul Neg Pow Reciprocal Sigmoid Sin Softplus Sqrt Sub Sum "
    "Tanh".split()
)
_REARRANGING = frozenset("Expand Flatten Reshape Squeeze Transpose Unsqueeze".split())
"""Operators that are looked through, but make no NaN of a zero cotangent; theirs is not laid out as the output is."""
FARTHEST = 6
"""The most nodes between a singular operator and the Where that are looked through."""


def needs_guard(node: ir.Node, rules: Registry) -> bool:
    """Whether elements of *node* may be infinite or NaN, or have such a derivative, and a Where may not pick them."""
    if node.op_type in _REARRANGING:
        return False
    return _may_be_infinite(node, rules, FARTHEST) and _is_picked_from(node.outputs[0], FARTHEST)


def zero_where_not_picked(cotangent: Tensor, dy: Tensor) -> Tensor:
    """*cotangent*, of which 0 · ∞ or 0 / 0 may have made NaN, with 0 wherever *dy* is 0."""
    op = cotangent.op
    return op.Where(dy.equals(0), op.constant(0, cotangent.dtype), cotangent)


def _is_picked_from(value: ir.Value, farthest: int) -> bool:
    """Whether a Where picks between *value*, or something computed from its elements, and something else."""
    for reader, index in value.uses():
        if reader.op_type == "Where" and index in (1, 2):
            return True
        if farthest and _passes_elements_on(reader) and _is_picked_from(reader.outputs[0], farthest - 1):
            return True
    return False


def _may_be_infinite(node: ir.Node, rules: Registry, farthest: int) -> bool:
    """Whether *node* is singular, or computed from the elements of such a one."""
    entry = rules.get(node)
    if isinstance(entry, Rule) and entry.singular and not _is_harmless(node):
        return True
    if not farthest or not _passes_elements_on(node):
        return False
    sources = [value.producer() for value in node.inputs if value is not None]
    return any(source is not None and _may_be_infinite(source, rules, farthest - 1) for source in sources)


def _passes_elements_on(node: ir.Node) -> bool:
    return node.op_type in _ELEMENTWISE or node.op_type in _REARRANGING


def _is_harmless(node: ir.Node) -> bool:
    """Whether the node divides by a constant number other than 0, or takes a power of at least 1."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.const_value is None or value.is_graph_input():
        return False
    if value.const_value.size != 1:
        return False
    number = value.const_value.numpy().item()
    return bool(number != 0 if node.op_type == "Div" else number >= 1)
