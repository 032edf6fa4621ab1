"""Chains of nodes that only rearrange or convert a value become one node."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .rewriting import (
    RewritePass,
    Rewriter,
    RewriteRule,
    first_of,
    have_same_shape,
    int_attribute,
    produced_by,
    read_once,
    static_shape,
)

_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that keep the elements and their order."""

_T = ir.DataType
_HOLDS = {
    _T.BOOL: {_T.UINT8, _T.INT8, _T.UINT16, _T.INT16, _T.UINT32, _T.INT32, _T.UINT64, _T.INT64}
    | {_T.FLOAT16, _T.BFLOAT16, _T.FLOAT, _T.DOUBLE},
    _T.UINT8: {_T.UINT16, _T.INT16, _T.UINT32, _T.INT32, _T.UINT64, _T.INT64}
    | {_T.FLOAT16, _T.BFLOAT16, _T.FLOAT, _T.DOUBLE},
    _T.INT8: {_T.INT16, _T.INT32, _T.INT64, _T.FLOAT16, _T.BFLOAT16, _T.FLOAT, _T.DOUBLE},
    _T.UINT16: {_T.UINT32, _T.INT32, _T.UINT64, _T.INT64, _T.FLOAT, _T.DOUBLE},
    _T.INT16: {_T.INT32, _T.INT64, _T.FLOAT, _T.DOUBLE},
    _T.UINT32: {_T.UINT64, _T.INT64, _T.DOUBLE},
    _T.INT32: {_T.INT64, _T.DOUBLE},
    _T.FLOAT16: {_T.FLOAT, _T.DOUBLE},
    _T.BFLOAT16: {_T.FLOAT, _T.DOUBLE},
    _T.FLOAT: {_T.DOUBLE},
}
"""For a type, the types that hold each of its values exactly."""


class MergeViews(RewritePass):
    """Merge Transpose with Transpose, Reshape, Squeeze, Unsqueeze, Flatten with one another, Expand with Expand,
    and Cast with a Cast that lost nothing. What is picked from a list is shaped as the positions are. A Transpose that
    moves only axes of size 1 is a Reshape, which copies nothing; that of a matrix stays, as products take it in.

    A graph output is no view, but a copy. So where it only merges the rows of a product, the rows are merged before.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: values do not change. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return MERGES


def transposes(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    inner = produced_by(node.inputs[0], "Transpose")
    outer_perm, inner_perm = _perm(node), _perm(inner)
    if inner is None or outer_perm is None or inner_perm is None:
        return None
    return rewriter.emit("Transpose", inner.inputs[0], perm=[inner_perm[axis] for axis in outer_perm])


def moves_of_ones(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    source, output, perm = node.inputs[0], node.outputs[0], _perm(node)
    if source is None or source.shape is None or output.shape is None or perm is None or len(perm) < 3:
        return None
    moved = [axis for axis in perm if source.shape[axis] != 1]
    sizes = [dim if isinstance(dim, int) else -1 for dim in output.shape]
    if moved != sorted(moved) or 0 in sizes or sizes.count(-1) > 1:
        return None
    return rewriter.emit("Reshape", source, rewriter.ints(sizes))


def reshapes(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    inner = produced_by(node.inputs[0], *_RESHAPING)
    if inner is None:
        return None
    source, output = inner.inputs[0], node.outputs[0]
    if have_same_shape(source, output):
        return source
    sizes = [dim if isinstance(dim, int) else -1 for dim in output.shape] if output.shape is not None else None
    if sizes is not None and 0 not in sizes and sizes.count(-1) <= 1:
        return rewriter.emit("Reshape", source, rewriter.ints(sizes))
    if node.op_type == "Reshape" and int_attribute(node, "allowzero", 0):
        return rewriter.emit("Reshape", source, node.inputs[1], allowzero=1)
    return None


def rows_of_a_product(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    product, output = produced_by(node.inputs[0], "MatMul"), node.outputs[0]
    if product is None or not output.is_graph_output() or not read_once(product.outputs[0]):
        return None
    if product.outputs[0].name in rewriter.protected:
        return None
    left, right = product.inputs
    if left is None or right is None or left.shape is None or right.shape is None or output.shape is None:
        return None
    if len(left.shape) < 3 or len(right.shape) != 2 or len(output.shape) != 2 or right.shape[1] != output.shape[1]:
        return None
    inner, outer = left.shape[-1], output.shape[1]
    if not isinstance(inner, int) or not isinstance(outer, int) or 0 in (inner, outer):
        return None
    return rewriter.emit("MatMul", rewriter.emit("Reshape", left, rewriter.ints([-1, inner])), right)


def picks(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    """Of a list, at positions that were made a list before: Gather reads at positions of any shape."""
    picked = produced_by(node.inputs[0], "GatherElements")
    if picked is None or not read_once(picked.outputs[0]) or picked.outputs[0].name in rewriter.protected:
        return None
    source, flat = picked.inputs
    listed = produced_by(flat, *_RESHAPING)
    if source is None or source.shape is None or len(source.shape) != 1 or listed is None:
        return None
    if not have_same_shape(listed.inputs[0], node.outputs[0]):
        return None
    return rewriter.emit("Gather", source, listed.inputs[0])


def expands(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    inner, sizes = produced_by(node.inputs[0], "Expand"), static_shape(node.outputs[0])
    if inner is None or sizes is None:
        return None
    return rewriter.emit("Expand", inner.inputs[0], rewriter.ints(sizes))


def casts(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    inner = produced_by(node.inputs[0], "Cast")
    if inner is None or inner.inputs[0] is None or inner.inputs[0].dtype is None:
        return None
    source, between = inner.inputs[0], inner.outputs[0].dtype
    if between not in _HOLDS.get(inner.inputs[0].dtype, ()):
        return None
    if source.dtype == node.outputs[0].dtype:
        return source
    return rewriter.emit("Cast", source, to=int_attribute(node, "to", 0))


def _perm(node: ir.Node | None) -> list[int] | None:
    """The permutation of a Transpose; without one the axes are reversed."""
    if node is None:
        return None
    perm = node.attributes.get("perm")
    if perm is not None:
        return list(perm.as_ints())
    output = node.outputs[0]
    return None if output.shape is None else list(reversed(range(len(output.shape))))


MERGES: dict[str, RewriteRule] = {
    "Cast": casts,
    "Expand": expands,
    "Flatten": reshapes,
    "Reshape": first_of(reshapes, rows_of_a_product, picks),
    "Squeeze": reshapes,
    "Transpose": first_of(transposes, moves_of_ones),
    "Unsqueeze": reshapes,
}
