"""The rule of Einsum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..broadcasting import unbroadcast
from ..einsum_equations import explicit_labels
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Einsum")
def einsum(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """Each cotangent is an Einsum again: of dy and the other operands, onto the labels of the operand.

    Labels that the operand alone has were summed, so the cotangent is repeated along them; where the operand
    repeats a label (a diagonal), the cotangent goes to that diagonal; axes of size 1 that were broadcast are
    summed back.
    """
    operands = [n.required(index) for index in range(len(n.inputs))]
    terms, output = explicit_labels(n.attr("equation"), [operand.rank for operand in operands])

    def cotangent(index: int) -> Tensor:
        others = [(term, x) for i, (term, x) in enumerate(zip(terms, operands, strict=True)) if i != index]
        return _onto(operands[index], terms[index], [(output, dy), *others])

    return tuple(partial(cotangent, index) for index in range(len(operands)))


def _onto(x: Tensor, labels: str, factors: Sequence[tuple[str, Tensor]]) -> Tensor:
    """The product of *factors* summed onto *labels*, in the shape of *x*."""
    op = x.op
    available = set("".join(term for term, _ in factors))
    distinct = "".join(dict.fromkeys(labels))
    kept = "".join(label for label in distinct if label in available)
    equation = ",".join(term for term, _ in factors) + "->" + kept
    product = op.Einsum(*(factor for _, factor in factors), equation=equation)
    axes = [axis for axis, label in enumerate(labels) if label not in kept or label in labels[:axis]]
    product = product.unsqueeze(axes)
    if distinct != labels:
        product = op.Where(_diagonal_mask(x, labels), product, op.constant(0, x.dtype))
    return unbroadcast(product, x).expand_like(x)


def _diagonal_mask(x: Tensor, labels: str) -> Tensor:
    """Where the coordinates of all axes of the same label agree; size 1 along the axes of other labels."""
    op = x.op
    masks = []
    for axis, label in enumerate(labels):
        first = labels.index(label)
        if first != axis:
            masks.append(_coordinates(x, first).equals(_coordinates(x, axis)))
    mask = masks[0]
    for other in masks[1:]:
        mask = op.And(mask, other)
    return mask


def _coordinates(x: Tensor, axis: int) -> Tensor:
    """0, 1, …, size - 1 along *axis*, of size 1 along the others."""
    op = x.op
    size = x.sizes([axis]).squeeze([0])
    zero, one = op.constant(0, size.dtype), op.constant(1, size.dtype)
    return op.Range(zero, size, one).unsqueeze([other for other in range(x.rank) if other != axis])
