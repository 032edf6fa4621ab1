"""A user's own loss, given as a second ONNX model."""

from __future__ import annotations

import math

import onnx_ir as ir

from ...passes.errors import InputError
from ...passes.infer_shapes import NodeInference
from ...passes.tape import CANONICAL_OPSET, Tape


def attach_loss_model(graph: ir.Graph, loss: ir.Model) -> tuple[ir.Value, list[ir.Value]]:
    """Append the graph of *loss* to *graph*.

    Its inputs that are named like an output of *graph*, or else like any other value of it, are connected to that
    value; the others become graph inputs (labels). Names that both graphs use are changed on the side of the loss.

    Args:
        loss: a model of the canonical opset, with one float output of one element.

    Returns:
        the loss value, named "loss" (or "loss_1", … where that is taken), and the new inputs.

    Raises InputError when no input is connected, types differ, or the output is no scalar.
    """
    fragment = loss.graph.clone()
    if len(fragment.outputs) != 1:
        raise InputError(f"The loss model has {len(fragment.outputs)} outputs; it needs one, the loss")
    values = {value.name: value for node in graph for value in node.outputs}
    values |= {value.name: value for value in (*graph.inputs, *graph.outputs)}
    op = Tape(graph)
    labels: list[ir.Value] = []
    connected = False
    for value in list(fragment.inputs):
        source = values.get(value.name)
        if source is not None:
            if source.dtype is not None and value.dtype is not None and source.dtype != value.dtype:
                raise InputError(
                    f"The loss model takes {value.name!r} as {value.dtype}, but the forward model gives {source.dtype}"
                )
            value.replace_all_uses_with(source, replace_graph_outputs=True)
            connected = True
        else:
            labels.append(value)
    if not connected:
        raise InputError(
            f"No input of the loss model ({', '.join(str(v.name) for v in fragment.inputs)}) is named like an output "
            f"of the forward model ({', '.join(str(v.name) for v in graph.outputs)}); name one so"
        )
    result = fragment.outputs[0]
    initializers = list(fragment.initializers.values())
    nodes = list(fragment)
    fragment.inputs.clear()
    fragment.outputs.clear()
    fragment.initializers.clear()
    fragment.remove(nodes)
    for value in [*labels, *initializers]:
        value.name = op.fresh_name(str(value.name))
    for node in nodes:
        node.name = op.fresh_name(node.name or node.op_type)
        for value in node.outputs:
            value.name = op.fresh_name(value.name or node.op_type)
        node.metadata_props["onnxgrad.pass"] = "attach_loss"
    for value in initializers:
        graph.register_initializer(value)
    graph.inputs.extend(labels)
    graph.extend(nodes)
    inference = NodeInference(graph, CANONICAL_OPSET)
    for node in nodes:
        inference.infer(node)
    if result.producer() is None:
        raise InputError("The loss model computes nothing")
    _check_scalar(result)
    result.name = op.fresh_name("loss")
    return result, labels


def _check_scalar(value: ir.Value) -> None:
    if value.dtype is not None and not value.dtype.is_floating_point():
        raise InputError(f"The loss model's output {value.name!r} is {value.dtype}; a loss is a float")
    if value.shape is not None and (not value.shape.is_static() or math.prod(value.shape.numpy()) != 1):
        raise InputError(f"The loss model's output {value.name!r} has shape {value.shape}; a loss is a scalar")
