"""Correlations of two signals, the gradients of convolution kernels: how they are marked in a graph.

A rule emits a correlation as one Conv over the batch, which every pass understands, and marks it. Late, when nothing
moves any more, `LowerCorrelations` writes it in the form that is the fastest in standard operators, and says in that
form's last node what it has written: so who knows a faster one that is not portable can take that
(`BlockConvolutions`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from .errors import InvalidModelError
from .tape import Tensor

KERNEL = "onnxgrad.kernel"
"""Metadata key of a Conv that a rule emitted to correlate two signals: the shape of the kernel of that gradient."""

CORRELATION = "onnxgrad.correlation"
"""Metadata key of the node that gives a correlation in its final form: a `Correlation` as JSON."""


@dataclass(frozen=True)
class Correlation:
    """What a node computes: Σ y[n, m, o] x[n, c, stride·o + dilation·k - before] over n and o, as [m, c, k].

    Attributes:
        long: the name of the value x, (batch, group · channels, …).
        short: that of y, (batch, group · channels, …).
        kernel: the sizes of k.
        strides, dilations: along each spatial axis.
        before: how many zeros precede x along each.
        group: how many groups the channels are in; m and c count within one.
        after: how many zeros follow x along each axis, where windows are one element apart; None where not.
    """

    long: str
    short: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    group: int
    after: tuple[int, ...] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises InvalidModelError for a text that `to_json` has not written."""
        try:
            fields: Mapping[str, object] = json.loads(text)
            return cls(**{name: tuple(field) if isinstance(field, list) else field for name, field in fields.items()})  # type: ignore[arg-type]
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidModelError(f"The description of a convolution's gradient is damaged: {error}") from error


def mark_correlation(result: Tensor, kernel: Sequence[int]) -> None:
    """Mark the Conv that *result*, what `correlate` returned, is made of, with the shape of the kernel."""
    node = result.value.producer()
    while node is not None and node.op_type != "Conv":
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    assert node is not None
    node.metadata_props[KERNEL] = json.dumps(list(kernel))
