"""Equations of Einsum, with all labels spelled out."""

from __future__ import annotations

import string
from collections.abc import Sequence


def explicit_labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of the operands and of the output, with the ellipsis spelled out and the output explicit.

    ONNX Einsum: every ellipsis stands for the same number of axes; an implicit output has the ellipsis first,
    then the labels that appear once, sorted.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    unused = [label for label in string.ascii_letters if label not in equation]
    batch = next((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), 0)
    ellipsis = "".join(unused[:batch])
    if not arrow:
        names = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(label for label in set(names) if names.count(label) == 1))
    return [term.replace("...", ellipsis) for term in terms], right.replace("...", ellipsis)
