"""Cotangents that pass where a mask holds, or where it does not, and are 0 elsewhere."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from ..tape import Tensor

_SPREADING = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])
_REARRANGING = frozenset("Flatten Pad Reshape Slice Split Squeeze Transpose Unsqueeze".split())
FEW = 1 << 14
"""Elements for which the number of nodes counts more than what each does."""
FARTHEST = 12
"""The most nodes through which a cotangent is followed back to the products that it comes from."""


def masked(dy: Tensor, mask: Tensor) -> Tensor:
    """*dy* where *mask* holds, else 0, whatever dy is there."""
    if _is_multiplied(dy):
        return dy * mask.cast(dy.dtype)
    return dy.op.Where(mask, dy, dy.op.constant(0, dy.dtype))


def unless_masked(dy: Tensor, mask: Tensor) -> Tensor:
    """0 where *mask* holds, whatever dy is there, else *dy*."""
    if _is_multiplied(dy):
        return dy * dy.op.Not(mask).cast(dy.dtype)
    return dy.op.Where(mask, dy.op.constant(0, dy.dtype), dy)


def _is_multiplied(dy: Tensor) -> bool:
    """Whether *dy* is to be multiplied with a mask, which takes ONNX Runtime half the time of a Where.

    Out of convolutions and matrix products an infinity or NaN comes in many elements at once, masked ones or not. What
    comes from those alone need not be kept from making NaN.
    """
    few = dy.static_shape is not None and prod(dy.static_shape) <= FEW
    return not few and _comes_from_products(dy.value, FARTHEST)


def _comes_from_products(value: ir.Value | None, farthest: int) -> bool:
    node = value.producer() if value is not None else None
    if node is None or not farthest:
        return False
    if node.op_type in _SPREADING:
        return True
    if node.op_type in _REARRANGING:
        sources = [node.inputs[0]]
    elif node.op_type in ("Add", "Concat"):
        sources = list(node.inputs)
    elif node.op_type == "ScatterElements":
        sources = [node.inputs[2]]
    elif node.op_type == "Mul" and _is_mask(node.inputs[1]):
        sources = [node.inputs[0]]
    else:
        return False
    return all(_comes_from_products(source, farthest - 1) for source in sources)


def _is_mask(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "Cast" and getattr(node.inputs[0], "dtype", None) == ir.DataType.BOOL
