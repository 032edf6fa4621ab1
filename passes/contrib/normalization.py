"""Layer, RMS and group normalizations, also of the sum of a residual connection."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..tape import Tensor
from .expansion import Fused, of_microsoft


def skip_layer_normalization(n: Fused) -> Sequence[Tensor | None]:
    """LayerNormalization(x + skip + bias), its statistics, and the sum"""
    total = _sum(n.required(0), n.required(1), n.input(4))
    scale, shift = n.required(2), n.input(3)
    affine = [scale] if shift is None else [scale, shift]  # the runtime crashes on a bias that is there, but empty
    count = 3 if n.gives(2) else 2 if n.gives(1) else 1
    normalized = n.op.emit_many(
        "LayerNormalization", total, *affine, outputs=count, axis=-1, epsilon=float(n.attr("epsilon", 1e-12))
    )
    return [*normalized, *[None] * (3 - count), total]


def skip_simplified_layer_normalization(n: Fused) -> Sequence[Tensor | None] | None:
    """RMSNormalization(x + skip + bias), 1/rms, and the sum"""
    if n.gives(1):
        return None  # a mean, which this normalization does not have
    total = _sum(n.required(0), n.required(1), n.input(3))
    epsilon = float(n.attr("epsilon", 1e-12))
    normalized = n.op.RMSNormalization(total, n.required(2), axis=-1, epsilon=epsilon)
    inv_rms = _inv_rms(total, total.rank - 1, epsilon) if n.gives(2) else None
    return [normalized, None, inv_rms, total]


def simplified_layer_normalization(n: Fused) -> Sequence[Tensor | None]:
    """RMSNormalization(x), and 1/rms"""
    x, axis, epsilon = n.required(0), n.axis(-1), float(n.attr("epsilon", 1e-5))
    normalized = n.op.RMSNormalization(x, n.required(1), axis=axis, epsilon=epsilon)
    return [normalized, _inv_rms(x, axis, epsilon) if n.gives(1) else None]


def group_normalization(n: Fused) -> Tensor:
    """GroupNormalization(x), through x sigmoid(x) if asked for"""
    return _normalized_groups(n, n.required(0))


def skip_group_normalization(n: Fused) -> Sequence[Tensor]:
    """GroupNormalization(x + skip + bias), through x sigmoid(x) if asked for, and the sum"""
    skip, last = n.required(3), n.attr("channels_last", 1)
    if skip.rank == 2:
        skip = skip.unsqueeze([1, 2] if last else [2, 3])
    bias = n.input(4)
    if bias is not None and not last:
        bias = bias.unsqueeze([1, 2])
    total = _sum(n.required(0), skip, bias)
    return [_normalized_groups(n, total), total]


def _normalized_groups(n: Fused, x: Tensor) -> Tensor:
    op, dtype, (scale, shift) = n.op, x.dtype, (n.required(1), n.required(2))
    last = n.attr("channels_last", 1)
    channels = x.transpose([0, x.rank - 1, *range(1, x.rank - 1)]) if last else x
    y = op.GroupNormalization(
        channels.cast(scale.dtype),
        scale,
        shift,
        num_groups=n.attr("groups"),
        epsilon=float(n.attr("epsilon", 1e-5)),
    )
    if n.attr("activation", 0):
        y = y * op.Sigmoid(y)
    return (y.transpose([0, *range(2, x.rank), 1]) if last else y).cast(dtype)


def _sum(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    return x + skip if bias is None else x + skip + bias


def _inv_rms(x: Tensor, axis: int, epsilon: float) -> Tensor:
    exact = x.cast(ir.DataType.FLOAT)
    mean = (exact * exact).mean(range(axis, x.rank), keepdims=True)
    return x.op.Reciprocal(x.op.Sqrt(mean + epsilon))


EXPANSIONS = {
    **of_microsoft(
        {
            "GroupNorm": group_normalization,
            "SkipGroupNorm": skip_group_normalization,
            "SkipLayerNormalization": skip_layer_normalization,
            "SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
        }
    ),
    ("", "SimplifiedLayerNormalization"): simplified_layer_normalization,
}
