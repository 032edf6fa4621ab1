"""The inference library's functions of single operators, with those that it gets wrong put right."""

from __future__ import annotations

import math

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext, registry

__all__ = ["registry"]

registry.collect()  # a function registered after the library's own takes its place


@registry.register("", "MelWeightMatrix", since_version=17)
def infer_mel_weight_matrix(context: ShapeInferenceContext, node: ir.Node) -> None:
    """[dft_length // 2 + 1, num_mel_bins], where the library supposes [num_mel_bins, dft_length]."""
    bins, length = (_constant(value) for value in node.inputs[:2])
    dtype = node.attributes.get("output_datatype")
    frequencies = context.new_symbolic_dim() if length is None else length // 2 + 1
    context.set_shape_and_dtype(
        node.outputs[0],
        ir.Shape([frequencies, context.new_symbolic_dim() if bins is None else bins]),
        ir.DataType.FLOAT if dtype is None else ir.DataType(dtype.as_int()),
    )


@registry.register("", "Unique", since_version=11)
def infer_unique(context: ShapeInferenceContext, node: ir.Node) -> None:
    """The unique slices along `axis` have the other axes of the input, where the library supposes a vector."""
    source = node.inputs[0]
    assert source is not None
    axis = node.attributes.get_int("axis", None)
    count = context.new_symbolic_dim()
    unique: ir.Shape | None = ir.Shape([count])
    if axis is not None and source.shape is not None:
        axis %= len(source.shape)
        unique = ir.Shape([*source.shape[:axis], count, *source.shape[axis + 1 :]])
    elif axis is not None:
        unique = None
    context.set_shape_and_dtype(node.outputs[0], unique, source.dtype)
    for index, output in enumerate(node.outputs[1:], 1):
        size = context.new_symbolic_dim() if index == 2 else count
        context.set_shape_and_dtype(output, ir.Shape([size]), ir.DataType.INT64)


_infer_fused_mat_mul = registry.get("com.microsoft", "FusedMatMul", version=1)
assert _infer_fused_mat_mul is not None


@registry.register("com.microsoft", "FusedMatMul", since_version=1)
def infer_fused_mat_mul(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Left open where rows are the first axis, before the batch axes, which the library does not know of."""
    assert _infer_fused_mat_mul is not None
    if any(node.attributes.get_int(name, 0) for name in ("transBatchA", "transBatchB")):
        first = node.inputs[0]
        context.set_shape_and_dtype(node.outputs[0], None, None if first is None else first.dtype)
    else:
        _infer_fused_mat_mul(context, node)


infer_stretched = registry.get("", "Resize", version=19)


@registry.register("", "Resize", since_version=18)
def infer_resize(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes of which `keep_aspect_ratio_policy` takes one scale only, where the library takes them as they are."""
    assert infer_stretched is not None
    infer_stretched(context, node)
    source, output = node.inputs[0], node.outputs[0]
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or len(node.inputs) < 4 or source is None or source.shape is None:
        return
    axes = [axis % len(source.shape) for axis in node.attributes.get_ints("axes", range(len(source.shape)))]
    tensor = None if node.inputs[3] is None else ir.convenience.get_const_tensor(node.inputs[3])
    before = [size for axis in axes if isinstance(size := source.shape[axis], int) and size]
    after: list[int | ir.SymbolicDim] = [context.new_symbolic_dim() for _ in axes]
    if tensor is not None and len(before) == len(axes):
        scales = [int(wanted) / size for wanted, size in zip(tensor.numpy(), before, strict=True)]
        scale = min(scales) if policy == "not_larger" else max(scales)
        after = [math.floor(scale * size + 0.5) for size in before]
    dims = list(source.shape)
    for axis, size in zip(axes, after, strict=True):
        dims[axis] = size
    output.shape = ir.Shape(dims)


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

infer_reduction_over_known_axes = registry.get("", "ReduceSum", version=18)


def infer_reduction(context: ShapeInferenceContext, node: ir.Node) -> None:
    """Of axes that the graph computes, their number gives the rank, where the library gives nothing."""
    assert infer_reduction_over_known_axes is not None
    infer_reduction_over_known_axes(context, node)
    source, output = node.inputs[0], node.outputs[0]
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if output.shape is not None or source is None or source.shape is None or axes is None:
        return
    count = axes.shape[0] if axes.shape is not None and len(axes.shape) == 1 else None
    if node.attributes.get_int("keepdims", 1):
        output.shape = ir.Shape([context.new_symbolic_dim() for _ in source.shape])
    elif isinstance(count, int) and count:
        output.shape = ir.Shape([context.new_symbolic_dim() for _ in range(len(source.shape) - count)])


for name in _REDUCTIONS:
    registry.register("", f"Reduce{name}", since_version=1)(infer_reduction)


def _constant(value: ir.Value | None) -> int | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else int(tensor.numpy().item())
