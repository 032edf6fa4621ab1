"""Attributes that name one of several forms have a value that the standard knows."""

from __future__ import annotations

import onnx_ir as ir

from .errors import InvalidModelError, describe

_AUTO_PAD = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_DIRECTION = ("forward", "reverse", "bidirectional")
_LOSS_REDUCTION = ("none", "sum", "mean")
_SCATTER_REDUCTION = ("none", "add", "mul", "max", "min")

KNOWN_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("AveragePool", "auto_pad"): _AUTO_PAD,
    ("BitShift", "direction"): ("LEFT", "RIGHT"),
    ("Conv", "auto_pad"): _AUTO_PAD,
    ("ConvInteger", "auto_pad"): _AUTO_PAD,
    ("ConvTranspose", "auto_pad"): _AUTO_PAD,
    ("DepthToSpace", "mode"): ("DCR", "CRD"),
    ("GRU", "direction"): _DIRECTION,
    ("Gelu", "approximate"): ("none", "tanh"),
    ("GridSample", "mode"): ("linear", "nearest", "cubic"),
    ("GridSample", "padding_mode"): ("zeros", "border", "reflection"),
    ("LSTM", "direction"): _DIRECTION,
    ("LpPool", "auto_pad"): _AUTO_PAD,
    ("MaxPool", "auto_pad"): _AUTO_PAD,
    ("NegativeLogLikelihoodLoss", "reduction"): _LOSS_REDUCTION,
    ("Pad", "mode"): ("constant", "reflect", "edge", "wrap"),
    ("QLinearConv", "auto_pad"): _AUTO_PAD,
    ("RNN", "direction"): _DIRECTION,
    ("Resize", "coordinate_transformation_mode"): (
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    ),
    ("Resize", "keep_aspect_ratio_policy"): ("stretch", "not_larger", "not_smaller"),
    ("Resize", "mode"): ("nearest", "linear", "cubic"),
    ("Resize", "nearest_mode"): ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    ("RoiAlign", "coordinate_transformation_mode"): ("half_pixel", "output_half_pixel"),
    ("RoiAlign", "mode"): ("avg", "max"),
    ("ScatterElements", "reduction"): _SCATTER_REDUCTION,
    ("ScatterND", "reduction"): _SCATTER_REDUCTION,
    ("SoftmaxCrossEntropyLoss", "reduction"): _LOSS_REDUCTION,
    ("TensorScatter", "mode"): ("linear", "circular"),
}
"""The values of string attributes in the canonical opset, by operator and attribute (ONNX operators)."""


class CheckAttributes(ir.passes.InPlacePass):
    """Raise InvalidModelError for a string attribute outside of `KNOWN_VALUES`, which names node and attribute.

    Requires: the opset is the canonical one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in model.graph.all_nodes():
            if node.domain not in ("", "ai.onnx"):
                continue
            for name, attribute in node.attributes.items():
                known = KNOWN_VALUES.get((node.op_type, name))
                if known is not None and attribute.value not in known:
                    raise InvalidModelError(
                        f"{describe(node)}: its attribute {name} is {attribute.value!r}, which is none of "
                        f"{', '.join(known)}"
                    )
        return ir.passes.PassResult(model, modified=False)
