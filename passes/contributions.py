"""What arrives at a value from several places, summed once."""

from __future__ import annotations

import operator
from functools import partial, reduce

import onnx_ir as ir

from .sequences import add, is_sequence
from .tape import Tape, Tensor


class Contributions:
    """Cotangents of values, or their tangents, as they come in; the sums are emitted on *tape* when they are read."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._terms: dict[ir.Value, list[Tensor]] = {}

    def add(self, value: ir.Value, term: Tensor) -> None:
        self._terms.setdefault(value, []).append(term)

    def total(self, value: ir.Value) -> Tensor | None:
        """The sum at *value*; None if nothing has come in."""
        terms = self._terms.get(value, [])
        if len(terms) > 1:
            # A chain of Add, not a Sum: the runtime's kernel of that takes twice as long, and needs all terms at once.
            plus = partial(add, self._tape) if is_sequence(terms[0]) else operator.add
            self._terms[value] = terms = [reduce(plus, terms)]
        return terms[0] if terms else None

    def totals(self) -> dict[ir.Value, Tensor]:
        """All sums."""
        return {value: total for value in list(self._terms) if (total := self.total(value)) is not None}
