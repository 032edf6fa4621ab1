"""Decomposed layer normalizations become the one operator, whose rule is lean."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, int_attribute, produced_by, read_once


class RaiseLayerNormalization(RewritePass):
    """Raise `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon) * scale (+ bias)` to LayerNormalization.

    The means are over the last axes, *scale* and *bias* span exactly these, and nothing else reads what lies
    between. The square is a Pow or a Mul; the division by the root a Div, or a Mul by a Reciprocal or by a Pow.

    float64 is left alone: LayerNormalization computes its statistics in float32 at most (ONNX operators,
    LayerNormalization, `stash_type`).

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def scaled(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """normalized * scale"""
    left, right = node.inputs
    for normalized, scale in ((left, right), (right, left)):
        matched = _match(rewriter, normalized, node) if normalized is not None else None
        if matched is None:
            continue
        source, count, epsilon = matched
        if _spans_last_axes(scale, source, count) and source.dtype != ir.DataType.DOUBLE:
            return rewriter.emit("LayerNormalization", source, scale, axis=-count, epsilon=epsilon)
    return None


def shifted(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """LayerNormalization(x, scale) + bias"""
    left, right = node.inputs
    for value, bias in ((left, right), (right, left)):
        inner = produced_by(value, "LayerNormalization")
        if inner is None or value is None or not read_once(value) or value.name in rewriter.protected:
            continue
        source, scale = inner.inputs[:2]
        if source is None or source.shape is None or any(given is not None for given in inner.inputs[2:]):
            continue
        axis = int_attribute(inner, "axis", -1)
        count = -axis if axis < 0 else len(source.shape) - axis
        if len(inner.outputs) == 1 and _spans_last_axes(bias, source, count):
            attributes = {name: attribute.value for name, attribute in inner.attributes.items()}
            return rewriter.emit("LayerNormalization", source, scale, bias, **attributes)
    return None


def _match(rewriter: Rewriter, normalized: ir.Value, root: ir.Node) -> tuple[ir.Value, int, float] | None:
    """The input, the number of normalized axes and epsilon, if *normalized* is a normalization read by *root*."""
    division = produced_by(normalized, "Div", "Mul")
    if division is None:
        return None
    pairs = [(division.inputs[0], division.inputs[1])]
    if division.op_type == "Mul":
        pairs.append((division.inputs[1], division.inputs[0]))
    for centered, spread in pairs:
        root_nodes = _root_of(rewriter, spread, inverse=division.op_type == "Mul")
        difference = produced_by(centered, "Sub")
        if root_nodes is None or difference is None:
            continue
        inside, between = root_nodes
        variance, epsilon, addition = _plus_epsilon(rewriter, inside)
        square = produced_by(variance.inputs[0], "Pow", "Mul") if variance is not None else None
        if variance is None or square is None or addition is None:
            continue
        again = _squared(rewriter, square)
        source, mean = difference.inputs
        count, mean_node = _mean_over_last_axes(rewriter, mean)
        if again is None or source is None or mean_node is None or mean_node.inputs[0] is not source:
            continue
        other_mean = produced_by(again.inputs[1], "ReduceMean")
        same = other_mean is not None and again.inputs[0] is source and other_mean.inputs[0] is source
        if not same or other_mean is None or _mean_over_last_axes(rewriter, again.inputs[1])[0] != count:
            continue
        if _mean_over_last_axes(rewriter, variance.outputs[0])[0] != count:
            continue
        inner = {division, difference, again, mean_node, other_mean, variance, square, addition, *between}
        if count and _only_read_by(rewriter, inner, root):
            return source, count, epsilon
    return None


def _root_of(
    rewriter: Rewriter, value: ir.Value | None, *, inverse: bool
) -> tuple[ir.Value | None, list[ir.Node]] | None:
    """What *value* is the square root of (the inverse square root, if *inverse*), and the nodes between."""
    power = produced_by(value, "Pow")
    if power is not None and rewriter.scalar(power.inputs[1]) == (-0.5 if inverse else 0.5):
        return power.inputs[0], [power]
    nodes = []
    if inverse:
        reciprocal = produced_by(value, "Reciprocal", "Div")
        if reciprocal is None or (reciprocal.op_type == "Div" and rewriter.scalar(reciprocal.inputs[0]) != 1):
            return None
        nodes.append(reciprocal)
        value = reciprocal.inputs[-1]
    root = produced_by(value, "Sqrt")
    return None if root is None else (root.inputs[0], [*nodes, root])


def _plus_epsilon(rewriter: Rewriter, value: ir.Value | None) -> tuple[ir.Node | None, float, ir.Node | None]:
    """The ReduceMean and the constant whose sum *value* is, and the node that adds them."""
    addition = produced_by(value, "Add")
    if addition is not None:
        left, right = addition.inputs
        for term, constant in ((left, right), (right, left)):
            epsilon, mean = rewriter.scalar(constant), produced_by(term, "ReduceMean")
            if mean is not None and isinstance(epsilon, float):
                return mean, epsilon, addition
    return None, 0.0, None


def _squared(rewriter: Rewriter, square: ir.Node) -> ir.Node | None:
    """The Sub whose result the Pow or Mul *square* squares."""
    base, other = square.inputs
    squares = base is other if square.op_type == "Mul" else rewriter.scalar(other) == 2
    return produced_by(base, "Sub") if squares else None


def _mean_over_last_axes(rewriter: Rewriter, value: ir.Value | None) -> tuple[int, ir.Node | None]:
    """Over how many axes, the last ones, *value* is a mean that keeps its rank; 0 if it is not."""
    node = produced_by(value, "ReduceMean")
    if node is None or len(node.inputs) < 2 or not int_attribute(node, "keepdims", 1):
        return 0, None
    source, axes = node.inputs[0], rewriter.constant(node.inputs[1])
    if source is None or source.shape is None or axes is None:
        return 0, None
    rank = len(source.shape)
    reduced = sorted(int(axis) % rank for axis in axes)
    return (len(reduced), node) if reduced == list(range(rank - len(reduced), rank)) else (0, None)


def _spans_last_axes(value: ir.Value | None, source: ir.Value, count: int) -> bool:
    """Whether *value* has exactly the shape of the last *count* axes of *source*."""
    if value is None or value.shape is None or source.shape is None or len(value.shape) != count:
        return False
    return all(
        own == size and (isinstance(own, int) or own.value is not None)
        for own, size in zip(value.shape, source.shape[-count:], strict=True)
    )


def _only_read_by(rewriter: Rewriter, inner: set[ir.Node], root: ir.Node) -> bool:
    """Whether nothing but *root* and themselves reads what the nodes *inner* compute."""
    return all(
        not output.is_graph_output()
        and output.name not in rewriter.protected
        and all(reader in inner or reader is root for reader in output.consumers())
        for node in inner
        for output in node.outputs
    )


PATTERN: dict[str, RewriteRule] = {"Add": shifted, "Mul": scaled}
