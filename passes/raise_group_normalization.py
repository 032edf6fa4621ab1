"""A group normalization that was exported as one of instances becomes the one operator, whose rule is lean."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, have_same_shape, produced_by, read_once
from .write_in_parts import is_filled


class RaiseGroupNormalization(RewritePass):
    """Raise `Reshape(InstanceNormalization(Reshape(x, [0, groups, -1]))) * scale + bias` to GroupNormalization.

    The instances have no scale and bias of their own, *scale* and *bias* hold a number for each channel, and nothing
    else reads what lies between. PyTorch's exporters write it so. The ones and zeros are gone afterwards, and are not
    taken for parameters.

    float64 is left alone: GroupNormalization computes its statistics in float32 at most (ONNX operators,
    GroupNormalization, `stash_type`).

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def group_normalization(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """normalized * scale + bias"""
    for scaled, bias in (node.inputs, node.inputs[::-1]):
        product = produced_by(scaled, "Mul")
        if product is None or not _may_go(rewriter, scaled):
            continue
        for normalized, scale in (product.inputs, product.inputs[::-1]):
            instances = _instances(rewriter, normalized)
            x = None if instances is None else _grouped(instances.inputs[0], normalized)
            if instances is None or x is None or not (_is_per_channel(scale, x) and _is_per_channel(bias, x)):
                continue
            assert instances.inputs[0] is not None
            assert instances.inputs[0].shape is not None
            flat = [rewriter.emit("Reshape", each, rewriter.ints([-1])) for each in (scale, bias)]
            epsilon = instances.attributes.get("epsilon")
            return rewriter.emit(
                "GroupNormalization",
                x,
                *flat,
                num_groups=instances.inputs[0].shape[1],
                epsilon=1e-5 if epsilon is None else epsilon.as_float(),
            )
    return None


def _instances(rewriter: Rewriter, normalized: ir.Value | None) -> ir.Node | None:
    """The InstanceNormalization without scale and bias that *normalized* is another shape of."""
    back = produced_by(normalized, "Reshape")
    instances = None if back is None else produced_by(back.inputs[0], "InstanceNormalization")
    if back is None or instances is None or instances.outputs[0].dtype == ir.DataType.DOUBLE:
        return None
    if not (_may_go(rewriter, normalized) and _may_go(rewriter, back.inputs[0])):
        return None
    _, scale, bias = instances.inputs
    if scale is None or bias is None or {scale.name, bias.name} & rewriter.protected:
        return None
    return instances if is_filled(scale, 1) and is_filled(bias, 0) else None


def _grouped(groups: ir.Value | None, like: ir.Value | None) -> ir.Value | None:
    """The value of the shape of *like* whose channels *groups*, (batch, groups, elements), puts together."""
    reshape = produced_by(groups, "Reshape")
    x = None if reshape is None else reshape.inputs[0]
    if groups is None or groups.shape is None or x is None or x.shape is None or not have_same_shape(x, like):
        return None
    if len(groups.shape) != 3 or len(x.shape) < 2 or groups.shape[0] != x.shape[0]:
        return None
    count, channels = groups.shape[1], x.shape[1]
    if not isinstance(count, int) or not isinstance(channels, int) or count == 0:
        return None
    return x if channels % count == 0 else None


def _is_per_channel(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether *value* has as many elements as *x* has channels, along that axis."""
    if value is None or value.shape is None or x.shape is None or len(value.shape) > len(x.shape):
        return False
    sizes = [1] * (len(x.shape) - len(value.shape)) + list(value.shape)
    return sizes == [1, x.shape[1], *[1] * (len(x.shape) - 2)]


def _may_go(rewriter: Rewriter, value: ir.Value | None) -> bool:
    return value is not None and read_once(value) and value.name not in rewriter.protected


PATTERN: dict[str, RewriteRule] = {"Add": group_normalization}
