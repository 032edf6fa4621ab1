"""How the operators of ai.onnx changed from opset to opset, one adapter a change (ONNX spec, "Operators Changelog").

An adapter rewrites one node in place, from the form before the opset it is listed under to the form of that opset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .node_editor import NodeEditor
from .resize_adapters import resize_11, resize_13, upsample_9, upsample_10
from .scan_adapter import scan_9

Adapter = Callable[[NodeEditor], None]

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)


def _ints_become_input(name: str, index: int) -> Adapter:
    def adapt(edit: NodeEditor) -> None:
        values = edit.take(name)
        if values is not None:
            values = [values] if isinstance(values, int) else list(values)
            edit.set_input(index, edit.constant(values, ir.DataType.INT64, name))

    return adapt


def _batch_normalization_9(edit: NodeEditor) -> None:
    """With spatial=0, each element of a sample had statistics of its own, as the channels of a flat sample have."""
    source, outputs = edit.required(0), edit.node.outputs
    if edit.take("spatial", 1) or (source.shape is not None and len(source.shape) == 2):
        return
    if any(value.name for value in outputs[1:]):
        raise edit.refuse("trains with spatial=0, which opset 9 took away; export the model again")
    edit.node.resize_outputs(1)
    sizes = edit.emit("Shape", [source], "shape")
    edit.set_input(0, edit.emit("Flatten", [source], "flat", axis=1))
    one_axis = edit.constant([-1], ir.DataType.INT64, "one_axis")
    for index, what in enumerate(("scale", "bias", "mean", "variance"), start=1):
        edit.set_input(index, edit.emit("Reshape", [edit.required(index), one_axis], f"flat_{what}"))
    edit.emit_behind(0, "Reshape", [sizes], "flat", allowzero=1)


def _batch_normalization_14(edit: NodeEditor) -> None:
    """Training was marked by the presence of more outputs; two of them, the saved statistics, are gone."""
    outputs = edit.node.outputs
    if any(value.uses() or value.is_graph_output() for value in outputs[3:]):
        raise edit.refuse("gives out saved statistics, which opset 14 took away; export the model again")
    if any(value.name for value in outputs[1:]):
        edit.set("training_mode", 1)
        edit.node.resize_outputs(min(len(outputs), 3))
    else:
        edit.node.resize_outputs(1)


def _slice_10(edit: NodeEditor) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        _ints_become_input(name, index)(edit)


def _clip_11(edit: NodeEditor) -> None:
    """The bounds became inputs. One beyond the largest finite number, as the defaults were, is none."""
    dtype = edit.required(0).dtype or ir.DataType.FLOAT
    largest = float(np.finfo(dtype.numpy()).max) if dtype.is_floating_point() else float("inf")
    for index, name in enumerate(("min", "max"), start=1):
        bound = edit.take(name)
        if bound is not None and abs(bound) <= largest:
            edit.set_input(index, edit.number(bound, name))


def _pad_11(edit: NodeEditor) -> None:
    _ints_become_input("pads", 1)(edit)
    value = edit.take("value", 0.0)
    if value:
        edit.set_input(2, edit.number(value, "value"))


def _scatter_11(edit: NodeEditor) -> None:
    edit.node.op_type = "ScatterElements"


def _dropout_10(edit: NodeEditor) -> None:
    """The mask was of the input's type; it is bool now."""
    if len(edit.node.outputs) > 1:
        mask = edit.node.outputs[1]
        if mask.uses() or mask.is_graph_output():
            edit.emit_behind(1, "CastLike", [edit.required(0)], "bool").type = ir.TensorType(ir.DataType.BOOL)
        else:
            edit.node.resize_outputs(1)


def _dropout_12(edit: NodeEditor) -> None:
    """The older Dropout of inference lets its input through, as it does without the training input."""
    ratio = edit.take("ratio")
    if ratio is not None:
        edit.set_input(1, edit.constant(ratio, ir.DataType.FLOAT, "ratio"))


def _softmax_13(edit: NodeEditor) -> None:
    """Up to opset 12 the axes from `axis` on were normalized together, as one."""
    source, axis = edit.required(0), edit.take("axis", 1)
    if source.shape is not None:
        axis %= max(len(source.shape), 1)
        if all(dim == 1 for dim in source.shape[axis + 1 :]):
            edit.set("axis", axis)
            return
    sizes = edit.emit("Shape", [source], "shape")
    edit.set_input(0, edit.emit("Flatten", [source], "flat", axis=axis))
    edit.set("axis", -1)
    edit.emit_behind(0, "Reshape", [sizes], "flat", allowzero=1)


def _roi_align_16(edit: NodeEditor) -> None:
    if "coordinate_transformation_mode" not in edit.node.attributes:
        edit.set("coordinate_transformation_mode", "output_half_pixel")


def _split_18(edit: NodeEditor) -> None:
    if edit.input(1) is None:
        edit.set("num_outputs", len(edit.node.outputs))


def _dft_20(edit: NodeEditor) -> None:
    edit.set_input(2, edit.constant(edit.take("axis", 1), ir.DataType.INT64, "axis"))


def _grid_sample_20(edit: NodeEditor) -> None:
    mode = edit.take("mode", "bilinear")
    edit.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _group_normalization_21(edit: NodeEditor) -> None:
    """Scale and bias, one for each group, become one for each channel.

    The statistics were computed in the type of the input; the new default, float32, would be less than float64.
    """
    source, groups = edit.required(0), int(edit.attribute("num_groups"))
    if source.dtype == ir.DataType.DOUBLE:
        edit.set("stash_type", int(ir.DataType.DOUBLE))
    channels = source.shape[1] if source.shape is not None else None
    if isinstance(channels, int):
        repeats = edit.constant([1, channels // groups], ir.DataType.INT64, "repeats")
    else:
        size = edit.emit("Shape", [source], "channels", start=1, end=2)
        count = edit.emit("Div", [size, edit.constant([groups], ir.DataType.INT64, "groups")], "count")
        one = edit.constant([1], ir.DataType.INT64, "one")
        repeats = edit.emit("Concat", [one, count], "repeats", axis=0)
    for index, what in ((1, "scale"), (2, "bias")):
        axes = edit.constant([1], ir.DataType.INT64, "axes")
        column = edit.emit("Unsqueeze", [edit.required(index), axes], f"{what}_column")
        spread = edit.emit("Expand", [column, repeats], f"{what}_spread")
        flat = edit.constant([-1], ir.DataType.INT64, "flat")
        edit.set_input(index, edit.emit("Reshape", [spread, flat], what))


ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("BatchNormalization", 9): _batch_normalization_9,
    ("Scan", 9): scan_9,
    ("Upsample", 9): upsample_9,
    ("Dropout", 10): _dropout_10,
    ("Slice", 10): _slice_10,
    ("TopK", 10): _ints_become_input("k", 1),
    ("Upsample", 10): upsample_10,
    ("Clip", 11): _clip_11,
    ("Pad", 11): _pad_11,
    ("Resize", 11): resize_11,
    ("Scatter", 11): _scatter_11,
    ("Dropout", 12): _dropout_12,
    ("Hardmax", 13): _softmax_13,
    ("LogSoftmax", 13): _softmax_13,
    ("ReduceSum", 13): _ints_become_input("axes", 1),
    ("Resize", 13): resize_13,
    ("Softmax", 13): _softmax_13,
    ("Split", 13): _ints_become_input("split", 1),
    ("Squeeze", 13): _ints_become_input("axes", 1),
    ("Unsqueeze", 13): _ints_become_input("axes", 1),
    ("BatchNormalization", 14): _batch_normalization_14,
    ("RoiAlign", 16): _roi_align_16,
    **{(op_type, 18): _ints_become_input("axes", 1) for op_type in _REDUCTIONS},
    ("Split", 18): _split_18,
    ("DFT", 20): _dft_20,
    ("GridSample", 20): _grid_sample_20,
    ("GroupNormalization", 21): _group_normalization_21,
}
"""By operator and the opset that changed its form. Changes that are not listed only added types or defaults."""
