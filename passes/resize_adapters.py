"""How Upsample became Resize, and how Resize changed up to opset 13."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .node_editor import NodeEditor

_NEAREST_OF_HALF_PIXEL = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
"""What rounds x - ½ to where the key rounds x."""


def upsample_9(edit: NodeEditor) -> None:
    """The scales became an input."""
    edit.set_input(1, edit.constant(edit.take("scales"), ir.DataType.FLOAT, "scales"))


def upsample_10(edit: NodeEditor) -> None:
    """Upsample became Resize. It only enlarges, and takes the sample before."""
    edit.node.op_type = "Resize"
    edit.set("nearest_mode", "floor")


def resize_11(edit: NodeEditor) -> None:
    """Coordinates and rounding became attributes.

    The ONNX spec leaves open which sample Resize-10 takes for the nearest. ONNX Runtime takes the one before on an
    axis that grows and the one behind on an axis that shrinks, so where both
    can occur, one Resize for the axes that grow comes before one for those that shrink.
    """
    scales = edit.required(1)
    edit.node.resize_inputs(3)
    edit.set_input(1, None)
    edit.set_input(2, scales)
    edit.set("coordinate_transformation_mode", "asymmetric")
    if edit.attribute("mode", "nearest") != "nearest" or "nearest_mode" in edit.node.attributes:
        return
    known = None if scales.is_graph_input() or scales.const_value is None else scales.const_value.numpy()
    if known is not None and (known >= 1).all():
        edit.set("nearest_mode", "floor")
        return
    edit.set("nearest_mode", "ceil")
    if known is not None and (known <= 1).all():
        return
    if known is not None:
        growing = edit.constant(np.maximum(known, 1), ir.DataType.FLOAT, "growing")
        shrinking = edit.constant(np.minimum(known, 1), ir.DataType.FLOAT, "shrinking")
    else:
        one = edit.constant(1, ir.DataType.FLOAT, "one")
        growing = edit.emit("Max", [scales, one], "growing")
        shrinking = edit.emit("Min", [scales, one], "shrinking")
    grown = edit.emit(
        "Resize",
        [edit.required(0), None, growing],
        "grown",
        coordinate_transformation_mode="asymmetric",
        mode="nearest",
        nearest_mode="floor",
    )
    edit.set_input(0, grown)
    edit.set_input(2, shrinking)


def resize_13(edit: NodeEditor) -> None:
    """An input that does not apply was an empty tensor and is omitted now; `tf_half_pixel_for_nn` went.

    That mode is `half_pixel` without its shift by half a sample, which another rounding can make up for.
    """
    sizes = edit.input(3)
    if sizes is not None and sizes.shape is not None and list(sizes.shape) == [0]:
        edit.set_input(3, None)
    elif sizes is not None:
        edit.set_input(2, None)
    mode = edit.attribute("coordinate_transformation_mode")
    if mode != "tf_crop_and_resize" and edit.input(1) is not None:
        edit.set_input(1, None)
    if mode == "tf_half_pixel_for_nn":
        nearest = edit.attribute("nearest_mode", "round_prefer_floor")
        if edit.attribute("mode", "nearest") != "nearest" or nearest not in _NEAREST_OF_HALF_PIXEL:
            raise edit.refuse(
                "has coordinate_transformation_mode='tf_half_pixel_for_nn', which opset 13 took away, in a mode that "
                f"has no equivalent since: nearest_mode={nearest!r}; export the model again with opset 13 or newer"
            )
        edit.set("coordinate_transformation_mode", "half_pixel")
        edit.set("nearest_mode", _NEAREST_OF_HALF_PIXEL[nearest])
