"""How the operators of ai.onnx changed from opset to opset, one adapter a change (ONNX spec, "Operators Changelog").

An adapter rewrites one node in place, from the form before the opset it is listed under to the form of that opset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .errors import UnsupportedError, describe

Adapter = Callable[[ir.Node], None]

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


def add_input(node: ir.Node, index: int, value: ir.Value) -> None:
    """Make *value* the input at *index*, with omitted inputs before it where the node has fewer."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def constant(node: ir.Node, array: Any, dtype: ir.DataType, what: str) -> ir.Value:
    """A new initializer of the node's graph, named after the node and *what* it is."""
    graph = _graph(node)
    stem = f"{node.name or node.outputs[0].name}/{what}"
    name, count = stem, 0
    while name in graph.initializers:
        count += 1
        name = f"{stem}_{count}"
    values = np.asarray(array, dtype=dtype.numpy())
    tensor = ir.tensor(values, dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(values.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def emit_before(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value], what: str, attributes: dict[str, Any] | None = None
) -> ir.Value:
    """A new node in front of *node*, with its metadata."""
    name = f"{node.name or node.outputs[0].name}/{what}"
    new = ir.Node(
        "",
        op_type,
        inputs,
        ir.convenience.convert_attributes(attributes or {}),
        outputs=[ir.Value(name=name)],
        name=name,
        metadata_props=dict(node.metadata_props),
    )
    _graph(node).insert_before(node, new)
    return new.outputs[0]


def _graph(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph), "functions are inlined before"
    return graph


def _take(node: ir.Node, name: str, default: Any = None) -> Any:
    attribute = node.attributes.pop(name, None)
    return default if attribute is None else attribute.value


def _set(node: ir.Node, name: str, value: Any) -> None:
    node.attributes[name] = ir.convenience.convert_attribute(name, value)


def _ints_become_input(name: str, index: int) -> Adapter:
    def adapt(node: ir.Node) -> None:
        values = _take(node, name)
        if values is not None:
            values = [values] if isinstance(values, int) else list(values)
            add_input(node, index, constant(node, values, ir.DataType.INT64, name))

    return adapt


def _dtype(node: ir.Node) -> ir.DataType:
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    if dtype is None:
        raise UnsupportedError(f"The element type of the input of {describe(node)} is unknown; run shape inference")
    return dtype


def _rank(node: ir.Node) -> int:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        raise UnsupportedError(f"The rank of the input of {describe(node)} is unknown; run shape inference")
    return len(shape)


def _batch_normalization_9(node: ir.Node) -> None:
    if _take(node, "spatial", 1) != 1:
        raise UnsupportedError(f"{describe(node)} normalizes with spatial=0, which opset 9 took away; export it again")


def _batch_normalization_14(node: ir.Node) -> None:
    """Training was marked by the presence of more outputs; two of them, the saved statistics, are gone."""
    used = [bool(value.uses()) or value.is_graph_output() for value in node.outputs]
    if any(used[3:]):
        raise UnsupportedError(f"{describe(node)} gives out saved statistics, which opset 14 took away")
    if len(node.outputs) > 1 and any(value.name for value in node.outputs[1:]):
        _set(node, "training_mode", 1)
        if len(node.outputs) > 3:
            node.resize_outputs(3)
    elif len(node.outputs) > 1:
        node.resize_outputs(1)


def _scan_9(node: ir.Node) -> None:
    raise UnsupportedError(f"{describe(node)} has the batch axis of opset 8, which opset 9 took away; export it again")


def _upsample_9(node: ir.Node) -> None:
    add_input(node, 1, constant(node, _take(node, "scales"), ir.DataType.FLOAT, "scales"))


def _upsample_10(node: ir.Node) -> None:
    node.op_type = "Resize"


def _slice_10(node: ir.Node) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        _ints_become_input(name, index)(node)


def _clip_11(node: ir.Node) -> None:
    for index, name in enumerate(("min", "max"), start=1):
        bound = _take(node, name)
        if bound is not None:
            dtype = _dtype(node)
            limit = float(np.finfo(dtype.numpy()).max) if dtype.is_floating_point() else math.inf
            if abs(bound) <= limit:
                add_input(node, index, constant(node, bound, dtype, name))


def _pad_11(node: ir.Node) -> None:
    _ints_become_input("pads", 1)(node)
    value = _take(node, "value", 0.0)
    if value:
        add_input(node, 2, constant(node, value, _dtype(node), "value"))


def _resize_11(node: ir.Node) -> None:
    scales = node.inputs[1]
    node.resize_inputs(3)
    node.replace_input_with(1, None)
    node.replace_input_with(2, scales)
    _set(node, "coordinate_transformation_mode", "asymmetric")
    _set(node, "nearest_mode", "floor")


def _scatter_11(node: ir.Node) -> None:
    node.op_type = "ScatterElements"


def _dropout_10(node: ir.Node) -> None:
    """The mask was of the input's type; it is bool now."""
    if len(node.outputs) > 1:
        mask = node.outputs[1]
        if mask.uses() or mask.is_graph_output():
            raise UnsupportedError(f"{describe(node)} gives out a float mask, which opset 10 took away")
        node.resize_outputs(1)


def _dropout_12(node: ir.Node) -> None:
    """The older Dropout of inference lets its input through, as it does without the training input."""
    ratio = _take(node, "ratio")
    if ratio is not None:
        add_input(node, 1, constant(node, ratio, ir.DataType.FLOAT, "ratio"))


def _softmax_13(node: ir.Node) -> None:
    """Up to opset 12 the axes from `axis` on were normalized together, as one."""
    rank = _rank(node)
    axis = _take(node, "axis", 1) % max(rank, 1)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    assert shape is not None
    if all(dim == 1 for dim in shape[axis + 1 :]):
        _set(node, "axis", axis)
        return
    source = node.inputs[0]
    assert source is not None
    flat = emit_before(node, "Flatten", [source], "flat", {"axis": axis})
    flat.type = source.type
    _set(node, "axis", -1)
    sizes = emit_before(node, "Shape", [source], "shape")
    # The node's output keeps its place in the graph: a new node computes it from the flat result.
    output = node.outputs[0]
    flat_output = ir.Value(name=f"{output.name}/flat", type=output.type)
    flattened = ir.Node(
        "",
        node.op_type,
        [flat],
        list(node.attributes.values()),
        outputs=[flat_output],
        name=f"{node.name or output.name}/normalized",
        metadata_props=dict(node.metadata_props),
    )
    _graph(node).insert_before(node, flattened)
    node.op_type = "Reshape"
    node.attributes.clear()
    _set(node, "allowzero", 1)
    node.resize_inputs(2)
    node.replace_input_with(0, flat_output)
    node.replace_input_with(1, sizes)


def _roi_align_16(node: ir.Node) -> None:
    if "coordinate_transformation_mode" not in node.attributes:
        _set(node, "coordinate_transformation_mode", "output_half_pixel")


def _split_18(node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        _set(node, "num_outputs", len(node.outputs))


def _dft_20(node: ir.Node) -> None:
    axis = _take(node, "axis", 1)
    add_input(node, 2, constant(node, axis, ir.DataType.INT64, "axis"))


def _grid_sample_20(node: ir.Node) -> None:
    mode = _take(node, "mode", "bilinear")
    _set(node, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _group_normalization_21(node: ir.Node) -> None:
    """Scale and bias, one for each group, become one for each channel."""
    source = node.inputs[0]
    groups = node.attributes["num_groups"].as_int()
    assert source is not None
    channels = source.shape[1] if source.shape is not None else None
    if isinstance(channels, int):
        repeats = constant(node, [1, channels // groups], ir.DataType.INT64, "repeats")
    else:
        size = emit_before(node, "Shape", [source], "channels", {"start": 1, "end": 2})
        count = emit_before(node, "Div", [size, constant(node, [groups], ir.DataType.INT64, "groups")], "count")
        one = constant(node, [1], ir.DataType.INT64, "one")
        repeats = emit_before(node, "Concat", [one, count], "repeats", {"axis": 0})
    for index, what in ((1, "scale"), (2, "bias")):
        value = node.inputs[index]
        assert value is not None
        column = emit_before(
            node, "Unsqueeze", [value, constant(node, [1], ir.DataType.INT64, "axes")], f"{what}_column"
        )
        spread = emit_before(node, "Expand", [column, repeats], f"{what}_spread")
        flat = constant(node, [-1], ir.DataType.INT64, "flat")
        node.replace_input_with(index, emit_before(node, "Reshape", [spread, flat], what))


ADAPTERS: dict[tuple[str, int], Adapter] = {
    ("BatchNormalization", 9): _batch_normalization_9,
    ("Scan", 9): _scan_9,
    ("Upsample", 9): _upsample_9,
    ("Dropout", 10): _dropout_10,
    ("Slice", 10): _slice_10,
    ("TopK", 10): _ints_become_input("k", 1),
    ("Upsample", 10): _upsample_10,
    ("Clip", 11): _clip_11,
    ("Pad", 11): _pad_11,
    ("Resize", 11): _resize_11,
    ("Scatter", 11): _scatter_11,
    ("Dropout", 12): _dropout_12,
    ("Hardmax", 13): _softmax_13,
    ("LogSoftmax", 13): _softmax_13,
    ("ReduceSum", 13): _ints_become_input("axes", 1),
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
