"""Products of several tensors in the order of the least arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from .einsum_equations import explicit_labels
from .rewriting import RewritePass, Rewriter, RewriteRule

ASSUMED_SIZE = 64
"""Of a symbolic dim, to compare orders."""


class ContractInPairs(RewritePass):
    """Write an Einsum of more than two operands as Einsums of two, in the order that NumPy's `einsum_path` finds.

    ONNX Runtime multiplies the operands one after the other. That need not suit a cotangent, whose first factor is the
    output's: of `ij,jk,kl->il` it may share no label with the next, and their outer product has n to the fourth
    elements. Of pairs each cotangent is a product of two, and what the forward part has multiplied serves the backward.

    Requires: shapes inferred; the opset is the canonical one.
    Guarantees: values change by rounding only. Names of graph outputs stay.
    """

    def rules(self) -> Mapping[str, RewriteRule]:
        return PATTERN


def in_pairs(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
    operands = [value for value in node.inputs if value is not None and value.shape is not None]
    if len(operands) < 3 or len(operands) < len(node.inputs):
        return None
    shapes = [tuple(dim if isinstance(dim, int) else None for dim in value.shape or ()) for value in operands]
    terms, output = explicit_labels(node.attributes["equation"].as_string(), [len(shape) for shape in shapes])
    order = _order(terms, output, shapes)
    if len(order) == 1:
        return None
    product = None
    for positions in order:
        factors = [(terms.pop(index), operands.pop(index)) for index in sorted(positions, reverse=True)][::-1]
        labels = [label for term, _ in factors for label in term]
        needed = {*output, *"".join(terms)}
        kept = "".join(label for label in dict.fromkeys(labels) if label in needed) if terms else output
        equation = ",".join(term for term, _ in factors) + "->" + kept
        product = rewriter.emit("Einsum", *(value for _, value in factors), equation=equation)
        terms.append(kept)
        operands.append(product)
    return product


def _order(terms: Sequence[str], output: str, shapes: Sequence[Sequence[int | None]]) -> list[tuple[int, ...]]:
    """The positions of what is multiplied in each step; they are removed, and the product comes last."""
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(size or 0, sizes.get(label, 0))
    known = [
        [1 if size == 1 else sizes[label] or ASSUMED_SIZE for label, size in zip(*each, strict=True)]
        for each in zip(terms, shapes, strict=True)
    ]
    # Only their shapes matter: they take no memory.
    operands = [np.broadcast_to(np.float32(0), shape) for shape in known]
    strategy = "optimal" if len(operands) <= 5 else "greedy"
    path, _ = np.einsum_path(",".join(terms) + "->" + output, *operands, optimize=strategy)
    return list(path[1:])


PATTERN: dict[str, RewriteRule] = {"Einsum": in_pairs}
