"""Rules and declarations of the operators on quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .quantization_groups import sum_over_groups

rules = Registry()

rules.nondifferentiable(
    "QuantizeLinear",
    reason="it rounds to integers, which carry no gradient; for quantization-aware training, compile with "
    "straight_through=True (--straight-through), which differentiates pairs of QuantizeLinear and DequantizeLinear as "
    "if they did not round",
)
rules.nondifferentiable(
    "DynamicQuantizeLinear",
    reason="it rounds to integers, which carry no gradient; differentiate the model before it is quantized",
)
rules.nondifferentiable(
    "QLinearConv",
    "QLinearMatMul",
    reason="it computes on integers, which carry no gradient; differentiate the model before it is quantized, or its "
    "form with QuantizeLinear and DequantizeLinear around the operators on floats",
)


@rules.vjp("DequantizeLinear", inputs=(0, 1))
def dequantize_linear(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dscale = Σ dy (x - zero_point) over the elements that share a scale: of the tensor, a slice, or a block."""
    op, x, scale, zero_point = n.op, n.required(0), n.required(1), n.input(2)

    def cotangent() -> Tensor:
        attributes = {name: attribute.value for name, attribute in n.node.attributes.items()}
        steps = op.DequantizeLinear(x, op.full_like(scale, 1), zero_point, **attributes)
        return sum_over_groups(n, dy * steps, scale)

    return None, cotangent
