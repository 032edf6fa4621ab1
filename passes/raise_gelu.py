"""Decomposed Gelu activations become the one operator, whose rule is lean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import ml_dtypes
import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, produced_by, read_once


class RaiseGelu(RewritePass):
    """Raise `0.5 x (1 + erf(x / sqrt(2)))` and `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` to Gelu.

    Products may be written in any order, powers as Pow or Mul, and the cubic as `x (1 + 0.044715 x^2)`
    (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016). Nothing else may read what lies between.

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def gelu(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    factor, powers = _monomial(rewriter, node.outputs[0], is_root=True)
    if len(powers) != 2 or set(powers.values()) != {1}:
        return None
    first, second = powers
    for source, gate in ((first, second), (second, first)):
        if not _is(factor, 0.5, source):
            continue
        curve = _one_plus(rewriter, gate, "Erf", "Tanh")
        if curve is None:
            continue
        argument = curve.inputs[0]
        if curve.op_type == "Erf" and _is_monomial(rewriter, argument, math.sqrt(0.5), source, 1):
            return rewriter.emit("Gelu", source, approximate="none")
        if curve.op_type == "Tanh" and _is_cubic(rewriter, argument, source):
            return rewriter.emit("Gelu", source, approximate="tanh")
    return None


def _is_cubic(rewriter: Rewriter, value: ir.Value | None, source: ir.Value) -> bool:
    """Whether *value* is `sqrt(2/pi) (x + 0.044715 x^3)` with *source* for x."""
    factor, powers = _monomial(rewriter, value)
    if not _is(factor, math.sqrt(2 / math.pi), source):
        return False
    leading = powers.pop(source, 0)  # 1 where x is factored out of the sum
    if leading > 1 or list(powers.values()) != [1]:
        return False
    (total,) = powers
    addition = produced_by(total, "Add")
    if addition is None or not _is_inner(rewriter, total):
        return False
    left, right = addition.inputs
    return any(
        (rewriter.scalar(one) == 1 if leading else one is source)
        and _is_monomial(rewriter, rest, 0.044715, source, 3 - leading)
        for one, rest in ((left, right), (right, left))
    )


def _one_plus(rewriter: Rewriter, value: ir.Value, *op_types: str) -> ir.Node | None:
    """The node of *op_types* to which *value* adds 1."""
    addition = produced_by(value, "Add")
    if addition is None or not _is_inner(rewriter, value):
        return None
    left, right = addition.inputs
    for term, one in ((left, right), (right, left)):
        node = produced_by(term, *op_types)
        if node is not None and rewriter.scalar(one) == 1 and _is_inner(rewriter, node.outputs[0]):
            return node
    return None


def _is_monomial(rewriter: Rewriter, value: ir.Value | None, factor: float, source: ir.Value, power: int) -> bool:
    """Whether *value* is `factor * source^power`."""
    actual, powers = _monomial(rewriter, value)
    return powers == {source: power} and _is(actual, factor, source)


def _monomial(rewriter: Rewriter, value: ir.Value | None, *, is_root: bool = False) -> tuple[float, Counter[ir.Value]]:
    """*value* as a constant factor times powers of other values, seen through products that only it reads."""
    number = rewriter.scalar(value)
    if value is None or isinstance(number, float):
        return (1.0 if number is None else float(number)), Counter()
    node = produced_by(value, "Mul", "Div", "Pow") if is_root or _is_inner(rewriter, value) else None
    if node is not None and node.op_type == "Mul":
        left, left_powers = _monomial(rewriter, node.inputs[0])
        right, right_powers = _monomial(rewriter, node.inputs[1])
        return left * right, left_powers + right_powers
    second = rewriter.scalar(node.inputs[1]) if node is not None else None
    if node is not None and second:
        factor, powers = _monomial(rewriter, node.inputs[0])
        if node.op_type == "Div":
            return factor / second, powers
        if second == int(second) and second > 0:
            return factor**second, Counter({base: power * int(second) for base, power in powers.items()})
    return 1.0, Counter({value: 1})


def _is_inner(rewriter: Rewriter, value: ir.Value) -> bool:
    return read_once(value) and value.name not in rewriter.protected


def _is(actual: float, wanted: float, source: ir.Value) -> bool:
    """Whether a constant is *wanted*, as far as the type of *source*, or seven written digits, can say."""
    if source.dtype is None or not source.dtype.is_floating_point():
        return False
    precision = ml_dtypes.finfo(source.dtype.numpy())  # type: ignore[no-untyped-call]
    return math.isclose(actual, wanted, rel_tol=max(2e-7, 2 * float(precision.eps)))


PATTERN: dict[str, RewriteRule] = {"Div": gelu, "Mul": gelu}
