"""Cotangents, and convolutions with theirs, that can be computed in several exact forms, and the choice of one.

The forms agree up to rounding, and differ in time by up to ten times, depending on sizes and on the device. A rule
describes them as `Alternatives`; the registry in use chooses (`Registry.choose`). By default that is the form which
the rule expects to be the fastest; `runtime.tuning` measures instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .tape import Tensor


@dataclass(frozen=True)
class Alternatives:
    """One cotangent in several exact forms.

    Attributes:
        family: what the forms compute, in a few words.
        operands: what they read.
        attributes: what else tells this cotangent from others of its family; plain data, such as strides.
        forms: for each form's name, what emits it: called with tensors of the operands' types, all of one tape, and
            reading nothing else of a graph.
        expected: the form that is expected to be the fastest.
        plain: the form in the fewest nodes, whose own derivative with respect to the cotangent is as plain.
        positions: for each operand of integers, by number, the operand and the axis along which it holds positions.
    """

    family: str
    operands: tuple[Tensor, ...]
    attributes: Mapping[str, object]
    forms: Mapping[str, Callable[..., Tensor]]
    expected: str
    plain: str
    positions: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def emit(self, form: str) -> Tensor:
        """The cotangent in the form of that name."""
        return self.forms[form](*self.operands)


ChooseForm = Callable[[Alternatives], str]
"""Which form to take, by name."""


def expected_form(alternatives: Alternatives) -> str:
    """The choice that needs no device: the rule's own."""
    return alternatives.expected


def plain_form(alternatives: Alternatives) -> str:
    """The choice for a cotangent that is only there to be transposed."""
    return alternatives.plain
