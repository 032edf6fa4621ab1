"""Nodes that give what they are given are removed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .gradient_marks import is_marked
from .rewriting import RewritePass, Rewriter, RewriteRule, have_same_shape, int_attribute


class EliminateIdentities(RewritePass):
    """Remove nodes whose output is their input, by their operator, their constants, or their static shapes.

    Identity, Cast to the same type, Reshape, Expand, Squeeze, Unsqueeze, Flatten, Tile, Slice to the same shape,
    Transpose that moves nothing, Pad by nothing, reductions over axes of size 1, Dropout in inference, Concat,
    Sum, Max, Min, Mean of one input, Clip without bounds, `x * 1`, `x + 0`, `x - 0`, `x / 1`, `x ** 1`,
    `x and true`, `x or false`, and Where with one and the same value on both sides.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: values do not change, except that `x + 0` keeps a negative zero. Names of graph inputs and outputs
    stay; an output that is an input gets an Identity.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return IDENTITIES


def unless_marked(_: Rewriter, node: ir.Node) -> ir.Value | None:
    return None if is_marked(node) else node.inputs[0]


def to_same_type(_: Rewriter, node: ir.Node) -> ir.Value | None:
    source, output = node.inputs[0], node.outputs[0]
    known = source is not None and source.dtype is not None
    return source if known and source is not None and source.dtype == output.dtype else None


def to_same_shape(_: Rewriter, node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if have_same_shape(node.inputs[0], node.outputs[0]) else None


def of_one_input(_: Rewriter, node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def transpose(_: Rewriter, node: ir.Node) -> ir.Value | None:
    source, perm = node.inputs[0], node.attributes.get("perm")
    if perm is not None:
        moves = list(perm.as_ints()) != list(range(len(perm.as_ints())))
    else:
        moves = source is None or source.shape is None or len(source.shape) > 1
    return None if moves else source


def whole_slice(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    array = rewriter.constant(steps)
    forward = steps is None or (array is not None and bool(np.all(array == 1)))
    return to_same_shape(rewriter, node) if forward else None


def pad_by_nothing(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    pads = rewriter.constant(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


def keeping_reduction(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """With kept dims, equal shapes mean that only axes of size 1 were reduced."""
    return to_same_shape(rewriter, node) if int_attribute(node, "keepdims", 1) else None


def dropout(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    return node.inputs[0] if training is None or rewriter.scalar(training) is False else None


def unbounded(_: Rewriter, node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if all(bound is None for bound in node.inputs[1:]) else None


def with_neutral(neutral: int, *, either_side: bool) -> RewriteRule:
    """Drop the operand that is *neutral* for the operator."""

    def rule(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
        left, right = node.inputs
        for kept, other in ((left, right), (right, left))[: 1 + either_side]:
            if rewriter.scalar(other) == neutral and have_same_shape(kept, node.outputs[0]):
                return kept
        return None

    return rule


def where(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    condition, yes, no = node.inputs
    decided = rewriter.constant(condition)
    if yes is no or (decided is not None and decided.all()):
        chosen = yes
    elif decided is not None and not decided.any():
        chosen = no
    else:
        return None
    return chosen if have_same_shape(chosen, node.outputs[0]) else None


IDENTITIES: dict[str, RewriteRule] = {
    "Add": with_neutral(0, either_side=True),
    "And": with_neutral(True, either_side=True),
    "Cast": to_same_type,
    "CastLike": to_same_type,
    "Clip": unbounded,
    "Concat": of_one_input,
    "Div": with_neutral(1, either_side=False),
    "Dropout": dropout,
    "Expand": to_same_shape,
    "Flatten": to_same_shape,
    "Identity": unless_marked,
    "Max": of_one_input,
    "Mean": of_one_input,
    "Min": of_one_input,
    "Mul": with_neutral(1, either_side=True),
    "Or": with_neutral(False, either_side=True),
    "Pad": pad_by_nothing,
    "Pow": with_neutral(1, either_side=False),
    "ReduceMax": keeping_reduction,
    "ReduceMean": keeping_reduction,
    "ReduceMin": keeping_reduction,
    "ReduceProd": keeping_reduction,
    "ReduceSum": keeping_reduction,
    "Reshape": to_same_shape,
    "Slice": whole_slice,
    "Squeeze": to_same_shape,
    "Sub": with_neutral(0, either_side=False),
    "Sum": of_one_input,
    "Tile": to_same_shape,
    "Transpose": transpose,
    "Unsqueeze": to_same_shape,
    "Where": where,
}
