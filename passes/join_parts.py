"""Parts of a tensor that were each padded with zeros to its size, and then added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .rewriting import RewritePass, Rewriter, RewriteRule, produced_by, read_once, static_shape


class JoinParts(RewritePass):
    """A sum of padded tensors that lie side by side and fill the result becomes their Concat.

    So does the gradient of a tensor that is read in slices, as exporters cut the gates of a recurrent layer.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: values do not change, but the sign of a zero may. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return {"Add": join}


@dataclass(frozen=True)
class _Part:
    """What stands from *start* to *end* along *axis* of a sum, between zeros."""

    value: ir.Value
    axis: int
    start: int
    end: int


def join(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    sizes = static_shape(node.outputs[0])
    parts = [] if sizes is None else _parts(rewriter, node, sizes)
    if not parts or sizes is None:
        return None
    parts.sort(key=lambda part: part.start)
    axis = parts[0].axis
    ends = [0, *(part.end for part in parts)]
    if ends[-1] != sizes[axis] or any(
        part.axis != axis or part.start != end for part, end in zip(parts, ends, strict=False)
    ):
        return None
    return rewriter.emit("Concat", *(part.value for part in parts), axis=axis)


def _parts(rewriter: Rewriter, total: ir.Node, sizes: list[int]) -> list[_Part]:
    """What the sum adds up, empty if something in it is no part."""
    parts = []
    pending = [*total.inputs]
    while pending:
        term = pending.pop()
        if term is None or static_shape(term) != sizes or not read_once(term) or term.name in rewriter.protected:
            return []
        inner = produced_by(term, "Add", "Pad")
        if inner is not None and inner.op_type == "Add":
            pending += inner.inputs
            continue
        part = None if inner is None else _part(rewriter, inner)
        if part is None:
            return []
        parts.append(part)
    return parts


def _part(rewriter: Rewriter, pad: ir.Node) -> _Part | None:
    """Of a Pad with zeros along one axis."""
    value, output = pad.inputs[0], static_shape(pad.outputs[0])
    pads = rewriter.constant(pad.inputs[1])
    mode = pad.attributes.get("mode")
    filled = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is None or output is None or pads is None or (mode is not None and mode.as_string() != "constant"):
        return None
    if (filled is not None and rewriter.scalar(filled) != 0) or (len(pad.inputs) > 3 and pad.inputs[3] is not None):
        return None
    before, after = pads[: len(output)].tolist(), pads[len(output) :].tolist()
    padded = [axis for axis in range(len(output)) if before[axis] or after[axis]]
    if len(padded) != 1 or min(before + after) < 0:
        return None
    axis = padded[0]
    return _Part(value, axis, before[axis], output[axis] - after[axis])
