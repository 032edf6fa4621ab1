"""Arithmetic in fewer and smaller steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir

from .rewriting import (
    RewritePass,
    Rewriter,
    RewriteRule,
    first_of,
    have_same_shape,
    int_attribute,
    produced_by,
    read_once,
    static_shape,
)
from .scattered_sums import is_sum_onto_zeros

_KEEPING_SIGNS = ("Expand", "ReduceMean", "ReduceSum", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that give -y when their first input becomes -x."""
_BROADCASTING = (
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum Where Xor".split()
)


class SimplifyAlgebra(RewritePass):
    """Rewrite arithmetic to what is cheaper and equal.

    - Negations cancel, turn sums into differences and back, also from within products, and go into constants:
      `-(-x) = x`, `a + (-b)c = a - bc`, `-(a - b) = b - a`, `(-a)(-b) = ab`, `-(x * c) = x * (-c)`.
    - A sum divided by the number of its terms is a mean. `a / c + b / c = (a + b) / c`.
    - Two constant factors become one: `(x * c) * d = x * (cd)`.
    - A broadcasting operator reads a value as it was before an Expand, if the result has its shape without it.
    - The sum over axes along which a value was only repeated is a product: `sum(expand(x)) = n * x`.
    - A choice between two equal numbers is that number; `where(not c, a, b) = where(c, b, a)`.
    - What is added up at positions of zeros, and then to another tensor, is added up in that one at once.

    Nothing else is reassociated, and `x * 0` stays: it is not a number where x is none.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: values change by rounding only where constant factors are merged, repeated values or quotients summed,
    and sums divided; the sign of a zero may change. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return _rules()


def negation(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    inner = produced_by(node.inputs[0], "Neg", "Sub", "Mul")
    if inner is None:
        return None
    if inner.op_type == "Neg":
        return inner.inputs[0]
    if not read_once(inner.outputs[0]) or inner.outputs[0].name in rewriter.protected:
        return None
    left, right = inner.inputs
    if inner.op_type == "Sub":
        return rewriter.emit("Sub", right, left)
    factor, rest = _factor(rewriter, inner)
    return None if rest is None else rewriter.emit("Mul", rest, rewriter.full(-factor, rest))


def sum_of_negation(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    left, right = node.inputs
    positive = _without_negation(rewriter, right)
    if positive is not None:
        return rewriter.emit("Sub", left, positive)
    positive = _without_negation(rewriter, left)
    return None if positive is None else rewriter.emit("Sub", right, positive)


def difference_of_negation(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    positive = _without_negation(rewriter, node.inputs[1])
    return None if positive is None else rewriter.emit("Add", node.inputs[0], positive)


def _without_negation(rewriter: Rewriter, value: ir.Value | None) -> ir.Value | None:
    """-x where x is *value*, if it is made of a negation by products, sums and views that nothing else reads."""
    node = produced_by(value, "Neg", "Div", "Mul", *_KEEPING_SIGNS)
    if node is None or value is None or node.op_type == "Neg":
        return None if node is None else node.inputs[0]
    if not read_once(value) or value.name in rewriter.protected:
        return None
    for index, operand in enumerate(node.inputs[:1] if node.op_type in _KEEPING_SIGNS else node.inputs):
        positive = _without_negation(rewriter, operand)
        if positive is not None:
            inputs = [*node.inputs[:index], positive, *node.inputs[index + 1 :]]
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            result = rewriter.emit(node.op_type, *inputs, **attributes)
            result.type, result.shape = value.type, value.shape
            return result
    return None


def sum_of_quotients(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """For Add and Sub. In float16 the sum of the dividends may overflow where that of the quotients does not."""
    left, right = (produced_by(value, "Div") for value in node.inputs)
    if node.outputs[0].dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return None
    if left is None or right is None or left is right or left.inputs[1] is not right.inputs[1]:
        return None
    for quotient in (left, right):
        result = quotient.outputs[0]
        if not have_same_shape(quotient.inputs[0], node.outputs[0]) or not read_once(result):
            return None
        if result.name in rewriter.protected:
            return None
    return rewriter.emit("Div", rewriter.emit(node.op_type, left.inputs[0], right.inputs[0]), left.inputs[1])


def sum_over_count(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """For Div: of the sum of floats by how many of them there are."""
    total, number = produced_by(node.inputs[0], "ReduceSum"), rewriter.scalar(node.inputs[1])
    if total is None or not isinstance(number, float) or not have_same_shape(total.outputs[0], node.outputs[0]):
        return None
    source, axes = total.inputs[0], rewriter.constant(total.inputs[1]) if len(total.inputs) > 1 else None
    if source is None or source.shape is None or axes is None or not read_once(total.outputs[0]):
        return None
    sizes = [source.shape[int(axis)] for axis in axes]
    count = math.prod(size for size in sizes if isinstance(size, int)) if sizes else 0
    if count != number or any(not isinstance(size, int) for size in sizes):
        return None
    if total.outputs[0].name in rewriter.protected:
        return None
    return rewriter.emit("ReduceMean", source, total.inputs[1], keepdims=int_attribute(total, "keepdims", 1))


def product_of_negations(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """For Mul and Div."""
    left, right = (produced_by(value, "Neg") for value in node.inputs)
    if left is not None and right is not None:
        return rewriter.emit(node.op_type, left.inputs[0], right.inputs[0])
    number = rewriter.scalar(node.inputs[1])
    if left is None or not isinstance(number, float) or not have_same_shape(left.outputs[0], node.outputs[0]):
        return None
    return rewriter.emit(node.op_type, left.inputs[0], rewriter.full(-number, left.outputs[0]))


def product_with_two_constants(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    outer, product = _factor(rewriter, node)
    node_of_product = produced_by(product, "Mul")
    if product is None or node_of_product is None or not read_once(product) or product.name in rewriter.protected:
        return None
    inner, rest = _factor(rewriter, node_of_product)
    if rest is None or rest.dtype is None:
        return None
    limits = ml_dtypes.finfo(rest.dtype.numpy())  # type: ignore[no-untyped-call]
    if not float(limits.tiny) <= abs(outer * inner) <= float(limits.max):  # the merged factor would lose digits
        return None
    return rewriter.emit("Mul", rest, rewriter.full(outer * inner, rest))


def _factor(rewriter: Rewriter, node: ir.Node) -> tuple[float, ir.Value | None]:
    """The constant factor of a Mul of floats, and the other factor, which has the shape of the product."""
    left, right = node.inputs
    for number, rest in ((rewriter.scalar(right), left), (rewriter.scalar(left), right)):
        if isinstance(number, float) and have_same_shape(rest, node.outputs[0]):
            return number, rest
    return 1.0, None


def without_expand(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    for index, value in enumerate(node.inputs):
        expand = produced_by(value, "Expand")
        if expand is None:
            continue
        inputs = [*node.inputs[:index], expand.inputs[0], *node.inputs[index + 1 :]]
        shape = node.outputs[0].shape
        if shape is not None and broadcast([v.shape if v is not None else None for v in inputs]) == tuple(shape):
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            return rewriter.emit(node.op_type, *inputs, **attributes)
    return None


def broadcast(shapes: list[ir.Shape | None]) -> tuple[int | ir.SymbolicDim, ...] | None:
    """The shape of an elementwise result; None if it is not certain."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    result: list[int | ir.SymbolicDim] = []
    for axis in range(1, max(len(shape) for shape in known) + 1):
        sizes = {shape[-axis] for shape in known if len(shape) >= axis} - {1}
        if len(sizes) > 1 or any(not isinstance(size, int) and size.value is None for size in sizes):
            return None
        result.insert(0, sizes.pop() if sizes else 1)
    return tuple(result)


def reduction_of_expand(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """For ReduceSum and ReduceMean."""
    expand = produced_by(node.inputs[0], "Expand")
    axes = rewriter.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if expand is None or axes is None or axes.size == 0:
        return None
    source, repeated, result = expand.inputs[0], expand.outputs[0], static_shape(node.outputs[0])
    if source is None or source.shape is None or repeated.shape is None or result is None or source.dtype is None:
        return None
    rank = len(repeated.shape)
    before = (1,) * (rank - len(source.shape)) + tuple(source.shape)
    reduced = {int(axis) % rank for axis in axes}
    if any((before[axis] != 1) if axis in reduced else (before[axis] != repeated.shape[axis]) for axis in range(rank)):
        return None
    counts = [size for axis in reduced if isinstance(size := repeated.shape[axis], int)]
    count = math.prod(counts) if node.op_type == "ReduceSum" else 1
    if len(counts) < len(reduced) or 0 in counts or float(np.asarray(count).astype(source.dtype.numpy())) != count:
        return None
    total = source if count == 1 else rewriter.emit("Mul", source, rewriter.full(count, source))
    return total if static_shape(source) == result else rewriter.emit("Reshape", total, rewriter.ints(result))


def choice_between_equals(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    _, yes, no = node.inputs
    sizes, number = static_shape(node.outputs[0]), rewriter.scalar(yes)
    same = yes is no or (number is not None and repr(number) == repr(rewriter.scalar(no)))
    return rewriter.emit("Expand", yes, rewriter.ints(sizes)) if same and sizes is not None else None


def sum_with_scattered(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    left, right = node.inputs
    for value, other in ((left, right), (right, left)):
        scatter = produced_by(value, "ScatterElements")
        if scatter is None or not read_once(scatter.outputs[0]) or scatter.outputs[0].name in rewriter.protected:
            continue
        if is_sum_onto_zeros(scatter) and have_same_shape(value, other):
            attributes = {name: attribute.value for name, attribute in scatter.attributes.items()}
            return rewriter.emit("ScatterElements", other, *scatter.inputs[1:], **attributes)
    return None


def choice_by_negation(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    condition, yes, no = node.inputs
    negation = produced_by(condition, "Not")
    return None if negation is None else rewriter.emit("Where", negation.inputs[0], no, yes)


def _rules() -> dict[str, RewriteRule]:
    rules: dict[str, tuple[RewriteRule, ...]] = {
        "Add": (sum_of_negation, sum_of_quotients, sum_with_scattered),
        "Div": (product_of_negations, sum_over_count),
        "Mul": (product_of_negations, product_with_two_constants),
        "Neg": (negation,),
        "ReduceMean": (reduction_of_expand,),
        "ReduceSum": (reduction_of_expand,),
        "Sub": (difference_of_negation, sum_of_quotients),
        "Where": (choice_between_equals, choice_by_negation),
    }
    for op_type in _BROADCASTING:
        rules[op_type] = (*rules.get(op_type, ()), without_expand)
    return {op_type: first_of(*candidates) for op_type, candidates in rules.items()}
