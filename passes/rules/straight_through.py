"""The straight-through estimator of quantization, for quantization-aware training: not a derivative, so on request.

`STRAIGHT_THROUGH_RULES` is for graphs in which `RaiseFakeQuantize` has replaced the pairs of QuantizeLinear and
DequantizeLinear (Y. Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx_ir as ir

from ..fake_quantize import DOMAIN
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from . import BUILTIN_RULES
from .quantization_groups import spread_over_groups, sum_over_groups

STRAIGHT_THROUGH_RULES = Registry(BUILTIN_RULES)
"""The built-in rules, and that of FakeQuantize."""


@STRAIGHT_THROUGH_RULES.vjp("FakeQuantize", domain=DOMAIN, inputs=(0, 1))
def fake_quantize(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = m dy, dscale = Σ dy (y - m x) / scale, where m is 1 if x is rounded only and 0 if it is out of range.

    As PyTorch's fake_quantize_per_tensor_affine and fake_quantize_per_channel_affine do; for the scale as its
    _fake_quantize_learnable_per_tensor_affine with a gradient factor of 1 (S. K. Esser et al., "Learned step size
    quantization", 2020). The zero point is an integer and has none.
    """
    scale, y = n.required(1), n.outputs[0]
    x = n.required(0).cast(y.dtype)

    @cache
    def in_range() -> Tensor:
        return _in_range(n).cast(y.dtype)

    def cotangent_scale() -> Tensor:
        spread = spread_over_groups(n, scale, x).cast(y.dtype)
        return sum_over_groups(n, dy * (y - in_range() * x) / spread, scale)

    return lambda: dy * in_range(), cotangent_scale


def _in_range(n: Primal) -> Tensor:
    """Where x, divided by its scale and rounded, is a value of the quantized type."""
    op, scale, zero_point = n.op, n.required(1), n.input(2)
    precision = ir.DataType(n.attr("precision", 0) or scale.dtype)
    x = n.required(0).cast(precision)
    steps = x / spread_over_groups(n, scale.cast(precision), x)
    dtype = ir.DataType(n.attr("quantized_dtype"))
    if dtype.is_integer():
        steps = op.Round(steps)
        if zero_point is not None:
            steps = steps + spread_over_groups(n, _as_float(zero_point, precision), x)
    return op.And(steps >= float(dtype.min), steps <= float(dtype.max))


def _as_float(zero_point: Tensor, dtype: ir.DataType) -> Tensor:
    constant = zero_point.constant
    return zero_point.cast(dtype) if constant is None else zero_point.op.constant(constant.astype(float), dtype)
