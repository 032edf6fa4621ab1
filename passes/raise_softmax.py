"""Decomposed softmaxes become the one operator, whose rule is lean."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, int_attribute, produced_by, read_once


class RaiseSoftmax(RewritePass):
    """Raise `exp(x - max(x)) / sum(exp(x - max(x)))` over one axis to Softmax, if nothing else reads its parts.

    Without the maximum it stays as it is, as it then overflows where Softmax does not.

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def softmax(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    exponential = produced_by(node.inputs[0], "Exp")
    total = produced_by(node.inputs[1], "ReduceSum")
    if exponential is None or total is None or total.inputs[0] is not node.inputs[0]:
        return None
    difference = produced_by(exponential.inputs[0], "Sub")
    largest = produced_by(difference.inputs[1], "ReduceMax") if difference is not None else None
    if difference is None or largest is None or largest.inputs[0] is not difference.inputs[0]:
        return None
    axis = _kept_axis(rewriter, total)
    if axis is None or axis != _kept_axis(rewriter, largest):
        return None
    inner = [exponential, total, difference, largest]
    if any(n.outputs[0].name in rewriter.protected or n.outputs[0].is_graph_output() for n in inner):
        return None
    if len(exponential.outputs[0].uses()) != 2 or not all(read_once(n.outputs[0]) for n in inner[1:]):
        return None
    return rewriter.emit("Softmax", difference.inputs[0], axis=axis)


def _kept_axis(rewriter: Rewriter, node: ir.Node) -> int | None:
    """The one axis, non-negative, that *node* reduces and keeps with size 1."""
    source, axes = node.inputs[0], rewriter.constant(node.inputs[1] if len(node.inputs) > 1 else None)
    if source is None or source.shape is None or axes is None or axes.size != 1:
        return None
    return int(axes.reshape(())) % len(source.shape) if int_attribute(node, "keepdims", 1) else None


PATTERN: dict[str, RewriteRule] = {"Div": softmax}
