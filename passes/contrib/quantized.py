"""Products with weights of few bits, which become DequantizeLinear and MatMul, and quantization of 16 and 4 bits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..rules.slicing import crop
from ..tape import Tensor
from .expansion import Fused, of_microsoft

_BITS = (2, 4, 8)


def mat_mul_n_bits(n: Fused) -> Tensor | None:
    """x Wᵀ + bias, where W is blocks of integers, each with a scale and a zero point

    The integers stay as they are, 4 bits each where they have no more, so that the model does not grow.
    """
    packed, scales, points = n.required(1), n.required(2), n.input(3)
    zeros_are_floats = points is not None and points.dtype.is_floating_point()
    unknown = packed.constant is None or (points is not None and not zeros_are_floats and points.constant is None)
    if unknown or n.input(4) is not None or n.attr("weight_prepacked", 0) or n.attr("bits", 4) not in _BITS:
        return None
    weight = _weight(n, scales, points)
    product, bias = n.required(0) @ weight.transpose([1, 0]), n.input(5)
    return product if bias is None else product + bias


def _weight(n: Fused, scales: Tensor, points: Tensor | None) -> Tensor:
    """W, of shape (N, K), in the type of its scales."""
    op, bits, size, rows, columns = n.op, n.attr("bits", 4), n.attr("block_size"), n.attr("N"), n.attr("K")
    blocks = -(-columns // size)
    dtype = ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8
    packed = n.required(1).constant
    assert packed is not None
    integers = op.constant(_unpacked(packed.reshape(rows, -1), bits), dtype)
    scales = scales.reshape([rows, blocks])
    if points is not None and points.constant is not None and not points.dtype.is_floating_point():
        zeros = _unpacked(points.constant.reshape(rows, -1), bits)[:, :blocks]
    else:
        zeros = np.full((rows, blocks), 0 if points is not None else 2 ** (bits - 1))
    weight = op.DequantizeLinear(integers, scales, op.constant(zeros, dtype), axis=1, block_size=size)
    if points is not None and points.dtype.is_floating_point():
        shifts = (points.reshape([rows, blocks]) * scales).unsqueeze([2])
        weight = (weight.reshape([rows, blocks, size]) - shifts).reshape([rows, blocks * size])
    return crop(weight, {1: (0, columns)}) if columns != blocks * size else weight


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The integers that each byte of the last axis holds, the first one in its lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    integers: np.ndarray = (packed[..., None] >> shifts) & (2**bits - 1)
    return integers.reshape(*packed.shape[:-1], -1)


def standard_form(n: Fused) -> Tensor:
    """The operator of the same name, which has the same integers since opset 21"""
    attributes = {name: n.attr(name) for name in ("axis", "block_size") if name in n.node.attributes}
    return n.op.emit(n.node.op_type, *n.inputs, **attributes)


EXPANSIONS = of_microsoft(
    {
        "DequantizeLinear": standard_form,
        "MatMulNBits": mat_mul_n_bits,
        "QuantizeLinear": standard_form,
    }
)
