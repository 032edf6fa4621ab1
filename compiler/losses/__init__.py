"""Losses as graph fragments: `CrossEntropy(label_smoothing=0.1)`, or by name, or a model of one's own."""

from __future__ import annotations

import dataclasses

from ...passes.errors import InputError
from ..parameters import nearest
from .base import Loss, attach_loss
from .classification import NLL, BinaryCrossEntropyWithLogits, CrossEntropy
from .model import attach_loss_model
from .regression import L1, MSE, Huber, KLDivergence, SmoothL1

LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "nll": NLL,
    "binary_cross_entropy_with_logits": BinaryCrossEntropyWithLogits,
    "mse": MSE,
    "l1": L1,
    "smooth_l1": SmoothL1,
    "huber": Huber,
    "kl_div": KLDivergence,
}
"""The losses by name; `torch.nn.functional`'s spelling (`mse_loss`) is understood as well."""

_ALIASES = {"bce_with_logits": "binary_cross_entropy_with_logits"}


def resolve_loss(loss: str | Loss, **options: object) -> Loss:
    """The loss of a name, with its options (`label_smoothing=0.1`). A Loss is returned as it is.

    Raises InputError for a name or option that does not exist, with the nearest.
    """
    if isinstance(loss, Loss):
        return loss
    kind = LOSSES.get(_ALIASES.get(loss, loss)) or LOSSES.get(loss.removesuffix("_loss"))
    if kind is None:
        near = nearest(loss, LOSSES)
        raise InputError(f"There is no loss {loss!r}{near}; the losses are {', '.join(LOSSES)}, or a path to a model")
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in fields:
            raise InputError(
                f"The loss {loss!r} has no option {name!r}{nearest(name, fields)}; it has {', '.join(fields)}"
            )
    return kind(**options)  # type: ignore[arg-type]


__all__ = [
    "L1",
    "LOSSES",
    "MSE",
    "NLL",
    "BinaryCrossEntropyWithLogits",
    "CrossEntropy",
    "Huber",
    "KLDivergence",
    "Loss",
    "SmoothL1",
    "attach_loss",
    "attach_loss_model",
    "resolve_loss",
]
