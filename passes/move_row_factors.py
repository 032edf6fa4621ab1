"""The factors of a matrix's rows go to where there are fewer columns."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from .fresh_names import FreshNames
from .node_editor import NodeEditor
from .rewriting import have_same_shape, int_attribute

_WIDE = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""A product of rows that are not yet scaled could overflow in a narrower type."""


class MoveRowFactors(ir.passes.InPlacePass):
    """Multiply the factors w of the rows of a wide matrix P to the other matrices of the products that P is in.

    `(w * P) B = w * (P B)` and `(w * P)ᵀ B = Pᵀ (w * B)`, where w is one column. So the gradient of a vocabulary's
    scores need not be written a second time just to divide it by the number of samples.

    Args:
        protected: names of values that must stay.

    Requires: shapes are inferred. Guarantees: values change by rounding only; names of graph outputs stay.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names = FreshNames(model.graph)
        modified = False
        for node in list(model.graph):
            factors = _factors_of_rows(node)
            if factors is None or node.outputs[0].is_graph_output() or node.outputs[0].name in self._protected:
                continue
            matrix, column = factors
            if _is_worth_it(node.outputs[0]):
                for product in list(node.outputs[0].consumers()):
                    _move(NodeEditor(product, names), node.outputs[0], matrix, column)
                model.graph.remove(node, safe=True)
                modified = True
        return ir.passes.PassResult(model, modified)


def _factors_of_rows(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The matrix and the factors, one column or a single number, of which *node* is the product."""
    if node.domain != "" or node.op_type != "Mul" or node.outputs[0].dtype not in _WIDE:
        return None
    for matrix, column in (node.inputs, reversed(node.inputs)):
        if matrix is None or column is None or matrix.shape is None or column.shape is None:
            continue
        if not have_same_shape(matrix, node.outputs[0]) or len(matrix.shape) != 2 or matrix.shape[1] == 1:
            continue
        if column.shape in ([matrix.shape[0], 1], [1, 1], [1], []):
            return matrix, column
    return None


def _is_worth_it(scaled: ir.Value) -> bool:
    """Whether all that reads the matrix are products in which the factors meet fewer columns than they do now."""
    assert scaled.shape is not None
    columns = []
    for node in scaled.consumers():
        other = _other_side(node, scaled)
        if other is None or other.shape is None or other.producer() is scaled.producer():
            return False
        columns.append(other.shape[-1])
    sizes = [size for size in (*columns, scaled.shape[1]) if isinstance(size, int)]
    return len(sizes) == len(columns) + 1 > 1 and sum(sizes[:-1]) < sizes[-1]


def _other_side(node: ir.Node, scaled: ir.Value) -> ir.Value | None:
    """What is multiplied by the factors in the place of *scaled*, None if nothing can be.

    That is the result of a product of its rows, and the other operand of a product of its columns with the columns of
    that one.
    """
    if node.domain != "" or node.op_type not in ("Gemm", "MatMul") or len(node.inputs) > 2:
        return None
    left, right = node.inputs
    if left is None or right is None or right.shape is None or len(right.shape) != 2:
        return None
    transposed = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    if left is scaled and right is not scaled and transposed[0] == 0:
        return node.outputs[0]
    if left is scaled and right is not scaled and transposed == (1, 0):
        return right
    return left if right is scaled and left is not scaled and transposed == (1, 0) else None


def _move(editor: NodeEditor, scaled: ir.Value, matrix: ir.Value, column: ir.Value) -> None:
    node = editor.node
    other = _other_side(node, scaled)
    assert other is not None
    if other is node.outputs[0]:
        shape = other.shape
        inner = editor.emit_behind(0, "Mul", [column], "unscaled")
        inner.shape = shape
    else:
        product = editor.emit("Mul", [other, column], "scaled")
        product.type, product.shape = other.type, other.shape
        editor.set_input(node.inputs.index(other), product)
    editor.set_input(node.inputs.index(scaled), matrix)
