"""Products of matrices with transpositions, scale factors and activations, and convolutions with activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tape import Tensor
from .activations import activated, is_known
from .expansion import Fused, of_microsoft

_OF_GEMM = ("alpha", "beta", "transA", "transB")
_OF_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def fused_mat_mul(n: Fused) -> Tensor:
    """alpha A B, each matrix transposed if asked for"""
    product = _matrices(n, 0, "A") @ _matrices(n, 1, "B")
    alpha = float(n.attr("alpha", 1.0))
    return product if alpha == 1 else product * alpha


def fused_mat_mul_activation(n: Fused) -> Tensor | None:
    """FusedMatMul(A, B) through an activation"""
    activation = n.attr("activation", "")
    return activated(fused_mat_mul(n), activation, _parameters(n)) if is_known(activation) else None


def fused_gemm(n: Fused) -> Tensor | None:
    """Gemm(A, B, C) through an activation"""
    activation = n.attr("activation", "")
    if not is_known(activation):
        return None
    return activated(n.op.Gemm(*n.inputs, **_attributes(n, _OF_GEMM)), activation, _parameters(n))


def gemm_fast_gelu(n: Fused) -> Tensor:
    """Gelu(x weight + bias) by its approximation with tanh"""
    product, bias = n.required(0) @ n.required(1), n.input(2)
    return n.op.Gelu(product if bias is None else product + bias, approximate="tanh")


def fused_conv(n: Fused) -> Tensor | None:
    """Conv(x, weight, bias) + z through an activation"""
    return _convolution(n, channels_last=False)


def nhwc_convolution(n: Fused) -> Tensor | None:
    """Conv(x, weight, bias) + z through an activation, the channels last in x, z and the result"""
    return _convolution(n, channels_last=True)


def _matrices(n: Fused, index: int, letter: str) -> Tensor:
    x = n.required(index)
    if x.rank < 2:
        return x
    if n.attr(f"transBatch{letter}", 0):
        x = x.transpose([*range(1, x.rank - 1), 0, x.rank - 1])  # the rows are the first axis, before the batch axes
    return x.swap_last_two() if n.attr(f"trans{letter}", 0) else x


def _convolution(n: Fused, *, channels_last: bool) -> Tensor | None:
    activation = n.attr("activation", "")
    if not is_known(activation):
        return None
    x, weight, bias, z = n.required(0), n.required(1), n.input(2), n.input(3)
    last = x.rank - 1
    if channels_last:
        x = x.transpose([0, last, *range(1, last)])
    y = n.op.Conv(x, weight, bias, **_attributes(n, _OF_CONV))
    if channels_last:
        y = y.transpose([0, *range(2, last + 1), 1])
    if z is not None:
        y = y + z
    return activated(y, activation, n.attr("activation_params", ()))


def _attributes(n: Fused, names: Sequence[str]) -> dict[str, Any]:
    return {name: n.attr(name) for name in names if name in n.node.attributes}


def _parameters(n: Fused) -> dict[str, float]:
    """The parameters of the activation by name."""
    names = ("alpha", "beta", "gamma")
    return {name: n.attr(f"activation_{name}") for name in names if f"activation_{name}" in n.node.attributes}


EXPANSIONS = of_microsoft(
    {
        "FusedConv": fused_conv,
        "FusedGemm": fused_gemm,
        "FusedMatMul": fused_mat_mul,
        "FusedMatMulActivation": fused_mat_mul_activation,
        "GemmFastGelu": gemm_fast_gelu,
        "NhwcConv": nhwc_convolution,
        "NhwcFusedConv": nhwc_convolution,
        "TransposeMatMul": fused_mat_mul,
    }
)
