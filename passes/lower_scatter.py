"""ScatterND with a reduction, as ONNX Runtime computes it right."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from .rules.scattered_slices import combine_rows
from .rules.scattering import merge_axes, row_positions
from .subgraphs import all_graphs
from .substitution import move_before, substitute
from .tape import Tape


class LowerScatter(ir.passes.InPlacePass):
    """Write ScatterND with a reduction as ScatterElements, unless its positions are known to differ.

    ONNX Runtime's kernel of ScatterND for the CPU works on several threads without regard to positions that occur
    twice, and loses updates, as the exports of PyTorch's `index_add` and `index_put(accumulate=True)` need them.

    Requires: the opset is the canonical one. Guarantees: values are those that the standard defines.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outermost = Tape(model.graph, opset=model.opset_imports[""])
        modified = False
        for graph in list(all_graphs(model.graph)):
            tape = outermost if graph is model.graph else outermost.body(graph)
            for node in [node for node in graph if _may_lose_updates(node)]:
                tape.at(node.name or str(node.outputs[0].name), dict(node.metadata_props))
                count = len(graph)
                result = _by_elements(tape, node)
                move_before(node, count)
                substitute(node.outputs[0], result)
                modified = True
        return ir.passes.PassResult(model, modified)


def _may_lose_updates(node: ir.Node) -> bool:
    """Whether *node* is a ScatterND that combines updates, may do so twice at one position, and has known ranks."""
    if node.op_type != "ScatterND" or node.domain != "" or node.attributes.get_string("reduction", "none") == "none":
        return False
    data, indices, updates = node.inputs
    if data is None or indices is None or updates is None or indices.shape is None or data.shape is None:
        return False
    *reads, depth = indices.shape
    if not isinstance(depth, int) or updates.shape is None:
        return False
    tensor = None if indices.is_graph_input() else ir.convenience.get_const_tensor(indices)
    if tensor is None:
        known = [size for size in reads if isinstance(size, int)]
        return len(known) < len(reads) or prod(known) > 1
    tuples = tensor.numpy().reshape(-1, depth)
    sizes = [size for size in data.shape[:depth] if isinstance(size, int)]
    if len(sizes) < depth:
        return len(tuples) > 1
    return len(np.unique(np.where(tuples < 0, tuples + np.array(sizes), tuples), axis=0)) < len(tuples)


def _by_elements(op: Tape, node: ir.Node) -> ir.Value:
    data, indices, updates = (op.tensor(value) for value in node.inputs if value is not None)
    depth = indices.shape[-1]
    assert isinstance(depth, int)
    rows = merge_axes(updates, 0, indices.rank - 1)
    positions = row_positions(data, indices, depth).reshape([-1])
    reduction = node.attributes.get_string("reduction", "none")
    return combine_rows(merge_axes(data, 0, depth), positions, rows, reduction).reshape_like(data).value
