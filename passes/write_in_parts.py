"""Operators are written in parts that the backward part computes as well, so that these are computed once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .memory_of_values import size_of_dim
from .rewriting import RewritePass, Rewriter, RewriteRule, int_attribute, produced_by

_LONG_ROWS = 16
"""So many elements behind the axis fill a vector register."""

_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""Kernels of narrower types sum up in float32."""


class WriteInParts(RewritePass):
    """Write Swish as `x sigmoid(x)`, group and instance normalizations by mean and variance, the latter if these are
    computed anyway, and Softmax and LogSoftmax along another axis than the last by exponentials and their sum.

    The parts are those of the VJP rules; EliminateCommonSubexpressions merges the two. ONNX Runtime has no kernels of
    Swish and GroupNormalization, takes for an InstanceNormalization as long as for its parts, and for a Softmax five
    times as long, because it transposes what it reads and what it gives.

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
    centered, _, inv_std = _statistics(rewriter, node, x, list(range(2, rank)))

    def per_channel(value: ir.Value | None) -> ir.Value:
        return rewriter.emit("Unsqueeze", value, rewriter.ints(list(range(1, rank - 1))))

    normalized = rewriter.emit("Mul", centered, inv_std)
    scaled = normalized if is_filled(scale, 1) else rewriter.emit("Mul", normalized, per_channel(scale))
    return scaled if is_filled(bias, 0) else rewriter.emit("Add", scaled, per_channel(bias))


def group_normalization(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """x factor + shift, with one of each for a channel of a sample."""
    x, scale, bias = node.inputs
    if x is None or x.shape is None or x.dtype is None:
        return None
    rank, groups = len(x.shape), int_attribute(node, "num_groups", 1)
    stash = ir.DataType(int_attribute(node, "stash_type", int(ir.DataType.FLOAT)))
    wide = max(stash, x.dtype, key=lambda dtype: dtype.bitwidth)

    def cast(value: ir.Value | None, dtype: ir.DataType) -> ir.Value | None:
        return value if value is None or value.dtype == dtype else rewriter.emit("Cast", value, to=dtype)

    def grouped(value: ir.Value | None) -> ir.Value:
        return rewriter.emit("Reshape", cast(value, wide), rewriter.ints([groups, -1]))

    def per_channel(value: ir.Value) -> ir.Value:
        return rewriter.emit("Reshape", value, rewriter.ints([0, -1, *[1] * (rank - 2)]))

    exact = cast(x, wide)
    elements = rewriter.emit("Reshape", exact, rewriter.ints([0, groups, -1]))
    _, mean, inv_std = _statistics(rewriter, node, elements, [2])
    factor = rewriter.emit("Mul", inv_std, grouped(scale))
    shift = rewriter.emit("Sub", grouped(bias), rewriter.emit("Mul", mean, factor))
    scaled = rewriter.emit("Mul", exact, per_channel(factor))
    return cast(rewriter.emit("Add", scaled, per_channel(shift)), x.dtype)


def _statistics(
    rewriter: Rewriter, node: ir.Node, x: ir.Value, axes: Sequence[int]
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """x - mean, the mean and 1/std of *x* over *axes*, with the epsilon of *node*."""

    def mean_of(value: ir.Value) -> ir.Value:
        return rewriter.emit("ReduceMean", value, rewriter.ints(axes), keepdims=1, noop_with_empty_axes=1)

    attribute = node.attributes.get("epsilon")
    epsilon = rewriter.full(1e-5 if attribute is None else attribute.as_float(), x)
    mean = mean_of(x)
    centered = rewriter.emit("Sub", x, mean)
    variance = mean_of(rewriter.emit("Mul", centered, centered))
    inv_std = rewriter.emit("Reciprocal", rewriter.emit("Sqrt", rewriter.emit("Add", variance, epsilon)))
    return centered, mean, inv_std


def softmax(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    parts = _exponentials_of_logarithms(rewriter, node) or _exponentials(rewriter, node)
    return None if parts is None else rewriter.emit("Div", parts[1], parts[2])


def log_softmax(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    parts = _exponentials(rewriter, node)
    return None if parts is None else rewriter.emit("Sub", parts[0], rewriter.emit("Log", parts[2]))


def _exponentials(rewriter: Rewriter, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """x - max x, its exponentials and their sum; None where the runtime's own kernel suits the axis."""
    x = node.inputs[0]
    if x is None or x.shape is None or x.dtype not in _WIDE:
        return None
    axis = int_attribute(node, "axis", -1) % len(x.shape)
    if math.prod(size_of_dim(dim, {}) for dim in x.shape[axis + 1 :]) < _LONG_ROWS:
        return None
    axes = rewriter.ints([axis])
    shifted = rewriter.emit("Sub", x, rewriter.emit("ReduceMax", x, axes, keepdims=1))
    exponentials = rewriter.emit("Exp", shifted)
    return shifted, exponentials, rewriter.emit("ReduceSum", exponentials, axes, keepdims=1)


def _exponentials_of_logarithms(rewriter: Rewriter, node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Those from which `log_softmax` has made what *node* reads along the same axis; the Softmax of both is one."""
    result = produced_by(node.inputs[0], "Sub")
    logarithm = result and produced_by(result.inputs[1], "Log")
    total = logarithm and produced_by(logarithm.inputs[0], "ReduceSum")
    exponential = total and produced_by(total.inputs[0], "Exp")
    if not (result and total and exponential) or exponential.inputs[0] is not result.inputs[0]:
        return None
    shifted, summed = exponential.inputs[0], rewriter.constant(total.inputs[1])
    assert shifted is not None
    assert shifted.shape is not None
    rank = len(shifted.shape)
    if summed is None or summed.tolist() != [int_attribute(node, "axis", -1) % rank]:
        return None
    return shifted, exponential.outputs[0], total.outputs[0]


def is_filled(value: ir.Value | None, number: float) -> bool:
    """Whether *value* is a constant of the graph, not a parameter, all of whose elements are *number*."""
    tensor = None if value is None or value.is_graph_input() else value.const_value
    return tensor is not None and bool((tensor.numpy() == number).all())


PARTS: dict[str, RewriteRule] = {
    "GroupNormalization": group_normalization,
    "InstanceNormalization": instance_normalization,
    "LogSoftmax": log_softmax,
    "Softmax": softmax,
    "Swish": swish,
}
