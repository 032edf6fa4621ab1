"""Constants become initializers, and aliases of initializers become one value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .errors import InvalidModelError, describe
from .gradient_marks import is_marked
from .subgraphs import all_graphs
from .substitution import substitute

LARGEST_GENERATED_WEIGHT = 2**28
"""The most elements that a generated weight may have, so that a file cannot exhaust memory by naming a size."""

_WEIGHT_INPUTS = {
    "BatchNormalization": {1, 2, 3, 4},
    "Conv": {1, 2},
    "ConvTranspose": {1, 2},
    "GRU": {1, 2, 3},
    "Gather": {0},
    "Gemm": {1, 2},
    "InstanceNormalization": {1, 2},
    "LSTM": {1, 2, 3, 7},
    "LayerNormalization": {1, 2},
    "MatMul": {1},
    "PRelu": {1},
    "RNN": {1, 2, 3},
}
_VIEWS = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class LiftConstants(ir.passes.InPlacePass):
    """Make every constant an initializer of the main graph.

    - A Constant node, in the main graph or in a subgraph, becomes an initializer of the same value name.
    - A weight that a ConstantOfShape node generates (a float tensor of constant shape that an operator reads
      where it takes its weights) becomes an initializer, whose array is made only when it is read.
    - An Identity of an initializer becomes that initializer, so that shared weights are one value.
    - An initializer of a subgraph moves to the main graph (under a fresh name if its own is taken).

    Requires: functions are inlined.
    Guarantees: names of graph inputs and outputs stay. Tensors are moved, not copied: external data stays on
    disk. A constant that is a graph output itself stays a node.
    Raises InvalidModelError for a Constant node without exactly one value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for graph in list(all_graphs(model.graph)):
            for node in list(graph):
                modified |= _lift(node) or _generate_weight(node) or _unalias(node)
        modified |= _hoist(model)
        return ir.passes.PassResult(model, modified)


def _lift(node: ir.Node) -> bool:
    """Turn a Constant node into an initializer."""
    if node.op_type != "Constant" or node.domain != "" or node.outputs[0].is_graph_output():
        return False
    try:
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
    except ValueError as error:
        raise InvalidModelError(f"{describe(node)} is not valid: {error}") from error
    if tensor is None:
        raise InvalidModelError(f"{describe(node)} has no value")
    _replace_by_initializer(node, tensor)
    return True


def _generate_weight(node: ir.Node) -> bool:
    """Turn a ConstantOfShape node that generates a weight into an initializer."""
    if node.op_type != "ConstantOfShape" or node.domain != "" or node.outputs[0].is_graph_output():
        return False
    shape, fill = node.inputs[0], node.attributes.get("value")
    if shape is None or shape.is_graph_input() or shape.const_value is None:
        return False
    sizes = tuple(int(size) for size in shape.const_value.numpy())
    value = fill.as_tensor() if fill is not None else ir.tensor([0.0], dtype=ir.DataType.FLOAT)
    if min(sizes, default=0) < 0 or math.prod(sizes) > LARGEST_GENERATED_WEIGHT:
        return False
    if not value.dtype.is_floating_point() or not _is_read_as_weight(node.outputs[0], rank=len(sizes)):
        return False
    scalar = value.numpy().reshape(())
    tensor = ir.LazyTensor(
        lambda: ir.tensor(np.full(sizes, scalar), dtype=value.dtype),
        dtype=value.dtype,
        shape=ir.Shape(sizes),
        name=node.outputs[0].name,
    )
    _replace_by_initializer(node, tensor)
    return True


def _is_read_as_weight(value: ir.Value, rank: int) -> bool:
    for reader, index in value.uses():
        if index in _WEIGHT_INPUTS.get(reader.op_type, ()):
            return True
        if reader.op_type in ("Add", "Mul") and rank == 1:  # a scale or shift of each channel
            return True
        if reader.op_type in _VIEWS and index == 0 and _is_read_as_weight(reader.outputs[0], rank):
            return True
    return False


def _unalias(node: ir.Node) -> bool:
    """Let the readers of Identity(initializer) read the initializer."""
    if node.op_type != "Identity" or node.domain != "" or node.outputs[0].is_graph_output():
        return False
    source = node.inputs[0]
    if source is None or not source.is_initializer() or is_marked(node):
        return False
    substitute(node.outputs[0], source)
    return True


def _hoist(model: ir.Model) -> bool:
    """Move the initializers of subgraphs to the main graph."""
    modified = False
    names = Counter(_names_in(model))
    for graph in model.graph.subgraphs():
        for name, initializer in list(graph.initializers.items()):
            if initializer.is_graph_input() or initializer.is_graph_output():
                continue
            del graph.initializers[name]
            fresh, count = name, 0
            while names[fresh] > (fresh == name):
                count += 1
                fresh = f"{name}_{count}"
            names[name] -= 1
            names[fresh] += 1
            initializer.name = fresh
            model.graph.register_initializer(initializer)
            modified = True
    return modified


def _names_in(model: ir.Model) -> Iterator[str]:
    for graph in all_graphs(model.graph):
        yield from (value.name or "" for value in graph.inputs if not value.is_initializer())
        yield from graph.initializers
        yield from (value.name or "" for node in graph for value in node.outputs)


def _replace_by_initializer(node: ir.Node, tensor: ir.TensorProtocol) -> None:
    output, graph = node.outputs[0], node.graph
    assert graph is not None
    tensor.name = output.name
    initializer = ir.Value(
        name=output.name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        doc_string=output.doc_string,
        const_value=tensor,
        metadata_props={**node.metadata_props, **output.metadata_props},
    )
    graph.register_initializer(initializer)
    substitute(output, initializer)
