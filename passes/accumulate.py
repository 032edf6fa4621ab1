"""Accumulation: each gradient output adds to a buffer that comes in, fused into the node that makes it where it can."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .differentiate import PASS
from .fresh_names import FreshNames
from .rewriting import static_shape
from .scattered_sums import is_sum_onto_zeros
from .substitution import remove_if_unused


def accumulate(graph: ir.Graph, buffers: Mapping[ir.Value, str]) -> dict[ir.Value, ir.Value]:
    """Replace the graph outputs that are keys of *buffers* by their sums with new graph inputs of the given names.

    The sums take over the outputs' names. A gradient that comes straight out of a Gemm is accumulated by that
    Gemm (`beta=1`), which costs nothing extra; one that is added up at positions of zeros, as an embedding's is, at
    positions of the buffer, for which no tensor of that size is written.

    Returns:
        for each new output its buffer input.
    """
    partners = {}
    for gradient, name in buffers.items():
        buffer = ir.Value(name=name, type=gradient.type, shape=gradient.shape)
        graph.inputs.append(buffer)
        fused = _fuse(gradient, buffer) or _scatter(gradient, buffer)
        partners[fused or _add(graph, gradient, buffer)] = buffer
    return partners


def discard_buffers(graph: ir.Graph, buffers: Mapping[ir.Value, ir.Value]) -> None:
    """The inverse of `accumulate`: *buffers* maps outputs to their buffer inputs; outputs become fresh gradients."""
    for output, buffer in buffers.items():
        node = output.producer()
        assert node is not None
        if node.op_type == "Gemm":
            node.replace_input_with(2, None)
        elif node.op_type == "ScatterElements":
            node.replace_input_with(0, _zeros(graph, node, buffer))
        else:
            (fresh,) = [value for value in node.inputs if value is not buffer]
            assert fresh is not None
            _take_over(graph, output, fresh, node)
        graph.inputs.remove(buffer)


def _fuse(gradient: ir.Value, buffer: ir.Value) -> ir.Value | None:
    node = gradient.producer()
    if node is None or node.op_type != "Gemm" or gradient.uses():
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return None
    if len(node.inputs) == 2:
        node.resize_inputs(3)
    node.replace_input_with(2, buffer)
    node.attributes.pop("beta", None)
    return gradient


def _scatter(gradient: ir.Value, buffer: ir.Value) -> ir.Value | None:
    node = gradient.producer()
    if node is None or gradient.uses() or not is_sum_onto_zeros(node) or static_shape(gradient) is None:
        return None
    zeros = node.inputs[0]
    node.replace_input_with(0, buffer)
    unused = zeros.producer() if zeros is not None else None
    if unused is not None:
        remove_if_unused(unused)
    return gradient


def _zeros(graph: ir.Graph, node: ir.Node, like: ir.Value) -> ir.Value:
    """Zeros of the static shape of *like*, computed in front of *node*."""
    sizes, names = static_shape(like), FreshNames(graph)
    assert sizes is not None
    assert like.dtype is not None
    inputs = []
    for what, array, dtype in (
        ("zero", np.zeros((), like.dtype.numpy()), like.dtype),
        ("sizes", np.asarray(sizes, np.int64), ir.DataType.INT64),
    ):
        name = names.fresh(f"{node.name}/{what}")
        tensor = ir.tensor(array, dtype=dtype, name=name)
        inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor))
        graph.register_initializer(inputs[-1])
    name = names.fresh(f"{node.name}/Expand")
    output = ir.Value(name=name, type=like.type, shape=like.shape)
    metadata = dict(node.metadata_props)
    graph.insert_before(node, ir.Node("", "Expand", inputs, outputs=[output], name=name, metadata_props=metadata))
    return output


def _add(graph: ir.Graph, gradient: ir.Value, buffer: ir.Value) -> ir.Value:
    name = gradient.name
    gradient.name = f"{name}.fresh"
    node = ir.node(
        "Add",
        [buffer, gradient],
        name=f"{name}/accumulate",
        metadata_props={PASS: "accumulate"},
        outputs=[ir.Value(name=name, type=gradient.type, shape=gradient.shape)],
    )
    producer = gradient.producer()
    if producer is None:
        graph.append(node)
    else:
        # Right behind the gradient, which need not live longer than that.
        graph.insert_after(producer, node)
    graph.outputs[graph.outputs.index(gradient)] = node.outputs[0]
    return node.outputs[0]


def _take_over(graph: ir.Graph, output: ir.Value, fresh: ir.Value, node: ir.Node) -> None:
    """Make *fresh* the graph output in the place of *output*, under its name, and drop *node*."""
    name = output.name
    graph.outputs[graph.outputs.index(output)] = fresh
    graph.remove(node, safe=True)
    fresh.name = name
