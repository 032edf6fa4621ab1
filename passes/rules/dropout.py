"""The rule of Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor

rules = Registry()


@rules.vjp("Dropout", inputs=(0,))
def dropout(n: Primal, dy: Tensor | None, dmask: Tensor | None = None) -> Sequence[Cotangent]:
    """dx = dy mask / (1 - ratio) with the mask that the forward operator drew; dy itself at inference."""
    op, x, training = n.op, n.required(0), n.input(2)
    if dy is None:
        return [None]
    if training is None or (training.constant is not None and not training.constant.item()):
        return [lambda: dy]
    ratio = n.input(1)
    mask = n.extra_output(1, ir.DataType.BOOL, ir.Shape(x.value.shape or ()))

    def cotangent() -> Tensor:
        kept = 1.0 - (op.constant(0.5, x.dtype) if ratio is None else ratio.cast(x.dtype))
        # With a ratio of 1 nothing is kept, and nothing is to be scaled.
        scaled = dy / op.Where(kept.equals(0.0), op.constant(1, x.dtype), kept)
        dropped = op.Where(mask, scaled, op.constant(0, x.dtype))
        return dropped if training.constant is not None else op.Where(training, dropped, dy)

    return [cotangent]
