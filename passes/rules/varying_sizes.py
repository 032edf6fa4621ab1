"""Values of a loop's body whose sizes may differ from iteration to iteration, so that they cannot be stacked."""

from __future__ import annotations

from collections.abc import Set

import onnx_ir as ir

from ..subgraphs import Iteration, captured_values

_BY_CONTENT = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators whose outputs have sizes that depend on what is in their inputs."""
_BY_NUMBERS = frozenset({"BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "Range"})
"""Operators whose inputs say the sizes of their outputs."""
_BY_FURTHER_NUMBERS = frozenset(
    "CenterCropPad Col2Im DFT Expand OneHot Pad Reshape Resize Slice Split STFT Tile TopK Upsample".split()
)
"""Those of which all inputs but the first do."""


def find_varying_sizes(body: ir.Graph) -> set[ir.Value]:
    """The values of the *body* of a Loop or Scan that may have other sizes in another iteration.

    States, and the slices of what is scanned, are taken to keep theirs.
    """
    changing = set(body.inputs)  # values that may hold something else
    varying: set[ir.Value] = set()
    for node in body:
        reads = {value for value in (*node.inputs, *captured_values(node)) if value is not None}
        if not reads.isdisjoint(varying if node.op_type in ("Shape", "Size") else changing):
            changing.update(node.outputs)
        varying.update(
            output
            for output in node.outputs
            if (output.shape is None or not output.shape.is_static())
            and (not reads.isdisjoint(varying) or _makes_varying_sizes(node, output, changing))
        )
    return varying


def _makes_varying_sizes(node: ir.Node, output: ir.Value, changing: Set[ir.Value]) -> bool:
    """Whether *node* may give *output* in other sizes when what it reads keeps its own."""
    match node.op_type:
        case "If":
            return node.inputs[0] in changing and (output.shape is None or output.shape.has_unknown_dim())
        case "Loop":
            is_stack = any(output is stack.stacked for stack in Iteration.of(node).given)
            return is_stack and (not _goes_on(node) or any(value in changing for value in node.inputs[:2]))
        case operator if operator in _BY_NUMBERS:
            return any(value in changing for value in node.inputs)
        case operator if operator in _BY_FURTHER_NUMBERS:
            return any(value in changing for value in node.inputs[1:])
        case operator:
            return operator in _BY_CONTENT


def _goes_on(loop: ir.Node) -> bool:
    """Whether the body of *loop* never ends it."""
    body = loop.attributes["body"].as_graph()
    condition = body.outputs[0]
    while (node := condition.producer()) is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        condition = node.inputs[0]
    return condition is body.inputs[1] or condition.const_value is not None
