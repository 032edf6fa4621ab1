"""Sums of slices at computed positions in as many ScatterND as one thread each computes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from .eliminate_dead_code import EliminateDeadCode
from .rewriting import produced_by, static_shape
from .substitution import put_appended
from .tape import Tape, Tensor

_MOST_PIECES = 64
_MOST_COPIED = 4
"""The most elements that may be copied for each that is added."""
_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class ScatterInPieces(ir.passes.InPlacePass):
    """Write ScatterElements that adds whole slices along axis 0 as a chain of ScatterND.

    ONNX Runtime's kernel of ScatterND takes a fifth to a twentieth of the time, but on several threads it loses updates
    of positions that repeat. It stays on one thread where there is too little to add for more: each piece has no more
    than that, and where there are several they follow one another. What comes out is for a session on a CPU, not for
    a file.

    Args:
        most: how many elements a ScatterND adds on one thread.

    Requires: shapes inferred. Guarantees: values and their names stay, but for the order of additions.
    """

    def __init__(self, most: int) -> None:
        self._most = most

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, modified = model.graph, False
        tape = Tape(graph, opset=model.opset_imports[""])
        for node in list(graph):
            rows = self._rows(node)
            if rows is None:
                continue
            count = len(graph)
            tape.at(node.name or node.op_type, node.metadata_props)
            put_appended(node, count, self._scatter(tape, node, rows).value, node.outputs[0])
            modified = True
        if modified:
            EliminateDeadCode().call(model)
        return ir.passes.PassResult(model, modified)

    def _rows(self, node: ir.Node) -> int | None:
        """How many slices of *node* are a piece; None where it cannot be written so, or no faster."""
        if not adds_slices(node):
            return None
        data, _, updates = node.inputs
        assert data is not None
        assert updates is not None
        sizes = static_shape(updates)
        assert sizes is not None
        width = prod(sizes[1:])
        if sizes[0] * width > _MOST_PIECES * self._most or not 0 < width <= self._most:
            return None
        rows = self._most // width
        if sizes[0] <= rows:
            return rows
        # Each piece copies what it adds to, a large table too; and what is accumulated in place would be copied from
        # the buffer and back.
        copied = prod(static_shape(data) or ()) * -(-sizes[0] // rows)
        return None if data.is_graph_input() or copied > _MOST_COPIED * prod(sizes) else rows

    def _scatter(self, op: Tape, node: ir.Node, rows: int) -> Tensor:
        total, indices, updates = (op.tensor(value) for value in node.inputs if value is not None)
        count = updates.shape[0]
        assert isinstance(count, int)
        repeated = produced_by(indices.value, "Expand")
        if repeated is not None and repeated.inputs[0] is not None:
            indices = op.tensor(repeated.inputs[0])
        indices = indices.cast(ir.DataType.INT64).reshape([count, 1])
        if count <= rows:
            return op.ScatterND(total, indices, updates, reduction="add")
        pieces = -(-count // rows)
        sizes = op.ints([*[rows] * (pieces - 1), count - rows * (pieces - 1)])
        parts = (op.emit_many("Split", tensor, sizes, outputs=pieces, axis=0) for tensor in (indices, updates))
        for each in zip(*parts, strict=True):
            total = op.ScatterND(total, *each, reduction="add")
        return total


def adds_slices(node: ir.Node) -> bool:
    """Whether *node* is a ScatterElements that adds slices of known sizes, each at one position along axis 0."""
    if node.op_type != "ScatterElements" or node.domain != "" or len(node.inputs) != 3:
        return False
    data, indices, updates = node.inputs
    if data is None or indices is None or updates is None or data.dtype not in _TYPES:
        return False
    known, target = static_shape(updates), static_shape(data)
    axis = node.attributes.get_int("axis", 0)
    if node.attributes.get_string("reduction", "none") != "add" or not known or not target:
        return False
    if axis not in (0, -len(known)) or known[1:] != target[1:]:
        return False
    repeated = produced_by(indices, "Expand")
    source = indices if repeated is None else repeated.inputs[0]
    return source is not None and static_shape(source) == [known[0], *[1] * (len(known) - 1)]
