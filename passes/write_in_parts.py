"""Operators are written in parts that the backward part computes as well, so that these are computed once."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule


class WriteInParts(RewritePass):
    """Write Swish as `x sigmoid(x)`, and InstanceNormalization by its mean and variance if these are computed anyway.

    The parts are those of the VJP rules; EliminateCommonSubexpressions merges the two. ONNX Runtime has no kernel of
    Swish, and takes for an InstanceNormalization as long as for its parts.

    Requires: the graph is differentiated, shapes are inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PARTS


def swish(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    x, alpha = node.inputs[0], node.attributes.get("alpha")
    if x is None:
        return None
    factor = 1.0 if alpha is None else alpha.as_float()
    scaled = x if factor == 1 else rewriter.emit("Mul", x, rewriter.full(factor, x))
    return rewriter.emit("Mul", x, rewriter.emit("Sigmoid", scaled))


def instance_normalization(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    x, scale, bias = node.inputs
    if x is None or x.shape is None or not any(reader.op_type == "ReduceMean" for reader in x.consumers()):
        return None
    rank = len(x.shape)
    axes = rewriter.ints(list(range(2, rank)))

    def mean(value: ir.Value) -> ir.Value:
        return rewriter.emit("ReduceMean", value, axes, keepdims=1, noop_with_empty_axes=1)

    def per_channel(value: ir.Value | None) -> ir.Value:
        return rewriter.emit("Unsqueeze", value, rewriter.ints(list(range(1, rank - 1))))

    attribute = node.attributes.get("epsilon")
    epsilon = rewriter.full(1e-5 if attribute is None else attribute.as_float(), x)
    centered = rewriter.emit("Sub", x, mean(x))
    variance = mean(rewriter.emit("Mul", centered, centered))
    inv_std = rewriter.emit("Reciprocal", rewriter.emit("Sqrt", rewriter.emit("Add", variance, epsilon)))
    normalized = rewriter.emit("Mul", centered, inv_std)
    scaled = normalized if is_filled(scale, 1) else rewriter.emit("Mul", normalized, per_channel(scale))
    return scaled if is_filled(bias, 0) else rewriter.emit("Add", scaled, per_channel(bias))


def is_filled(value: ir.Value | None, number: float) -> bool:
    """Whether *value* is a constant of the graph, not a parameter, all of whose elements are *number*."""
    tensor = None if value is None or value.is_graph_input() else value.const_value
    return tensor is not None and bool((tensor.numpy() == number).all())


PARTS: dict[str, RewriteRule] = {"InstanceNormalization": instance_normalization, "Swish": swish}
