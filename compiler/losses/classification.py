"""Losses of class scores: cross entropy, negative log-likelihood, binary cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...passes.errors import InputError
from ...passes.tape import Tape, Tensor
from .base import Loss, without_axis


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """`torch.nn.functional.cross_entropy` with class indices.

    Scores are [N, C, d1, …] or [C], labels int64 [N, d1, …] or a scalar. Emitted as SoftmaxCrossEntropyLoss, whose
    rule needs one pass over the probabilities, softmax - onehot; label smoothing is emitted in primitives.

    A label that is neither a class nor `ignore_index` makes the run fail on the CPU, as it does in PyTorch.

    Attributes:
        ignore_index: labels of this value do not count.
        label_smoothing: the share of each label that is spread over all classes, 0 to 1.
        weight: a factor for each class.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    weight: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise InputError(f"CrossEntropy: label_smoothing is between 0 and 1, not {self.label_smoothing}")

    def label_type(self, prediction: Tensor) -> tuple[ir.DataType, ir.Shape]:
        return ir.DataType.INT64, without_axis(prediction, min(1, prediction.rank - 1))

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        scores, label, single = _batched(prediction, label)
        label = _out_of_range_fails(op, scores, label, self.ignore_index)
        if self.label_smoothing:
            loss = self._smoothed(op, op.LogSoftmax(scores, axis=1), label)
        else:
            weight = _class_weights(op, scores, self.weight)
            loss, _ = op.emit_many(
                "SoftmaxCrossEntropyLoss",
                scores,
                label,
                *([] if weight is None else [weight]),
                outputs=2,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
            )
        return loss.squeeze([0]) if single and self.reduction == "none" else loss

    def _smoothed(self, op: Tape, log_prob: Tensor, label: Tensor) -> Tensor:
        """(1 - s) of the loss of the label and s / C of the losses of all classes (arXiv:1512.00567, section 7)."""
        ignored = label.equals(self.ignore_index)
        known = op.Where(ignored, op.constant(0, label.dtype), label)
        weight = _class_weights(op, log_prob, self.weight)
        of_label = -op.GatherElements(log_prob, known.unsqueeze([1]), axis=1).squeeze([1])
        counted = op.Not(ignored).cast(log_prob.dtype)
        if weight is None:
            share, of_all = counted, -log_prob.sum([1])
        else:
            share = counted * op.Gather(weight, known, axis=0)
            spread = weight.reshape([1, -1, *[1] * (log_prob.rank - 2)])
            of_all = -(log_prob * spread).sum([1])
        smoothing = self.label_smoothing / log_prob.count([1])
        losses = share * of_label * (1.0 - self.label_smoothing) + counted * of_all * smoothing
        if self.reduction == "mean":
            return losses.sum() / share.sum()
        return self.reduce(losses)


@dataclass(frozen=True)
class NLL(Loss):
    """`torch.nn.functional.nll_loss`: log-probabilities [N, C, d1, …] or [C], labels int64 [N, d1, …] or a scalar.

    Attributes:
        ignore_index: labels of this value do not count.
        weight: a factor for each class.
    """

    ignore_index: int = -100
    weight: Sequence[float] | None = None

    def label_type(self, prediction: Tensor) -> tuple[ir.DataType, ir.Shape]:
        return ir.DataType.INT64, without_axis(prediction, min(1, prediction.rank - 1))

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        scores, label, single = _batched(prediction, label)
        label = _out_of_range_fails(op, scores, label, self.ignore_index)
        weight = _class_weights(op, scores, self.weight)
        loss = op.NegativeLogLikelihoodLoss(
            scores,
            label,
            *([] if weight is None else [weight]),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
        return loss.squeeze([0]) if single and self.reduction == "none" else loss


@dataclass(frozen=True)
class BinaryCrossEntropyWithLogits(Loss):
    """`torch.nn.functional.binary_cross_entropy_with_logits`: labels are probabilities of the logits' shape.

    Attributes:
        weight: a factor for each element, broadcast against the logits.
        pos_weight: a factor for the positive part of each element, broadcast likewise.
    """

    weight: Sequence[Any] | float | None = None
    pos_weight: Sequence[Any] | float | None = None

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        # Softplus(-x) = log(1 + exp(-x)), which the runtime computes without overflow.
        negative = op.Softplus(-prediction)
        if self.pos_weight is not None:
            factor = (op.constant(np.asarray(self.pos_weight), prediction.dtype) - 1.0) * label + 1.0
            negative = negative * factor
        losses = (1.0 - label) * prediction + negative
        if self.weight is not None:
            losses = losses * op.constant(np.asarray(self.weight), prediction.dtype)
        return self.reduce(losses)


def _batched(prediction: Tensor, label: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Scores and label with a batch axis, and whether it was missing."""
    if prediction.rank > 1:
        return prediction, label, False
    return prediction.unsqueeze([0]), label.unsqueeze([0]), True


def _out_of_range_fails(op: Tape, scores: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Make negative labels, which index operators count from the end, invalid; the one to ignore stays."""
    size = scores.sizes([1])
    negative = label < 0
    if ignore_index < 0:
        negative = op.And(negative, op.Not(label.equals(ignore_index)))
    return op.Where(negative, size, label)


def _class_weights(op: Tape, scores: Tensor, weight: Sequence[float] | None) -> Tensor | None:
    if weight is None:
        return None
    classes = scores.shape[1]
    if isinstance(classes, int) and len(weight) != classes:
        raise InputError(f"The loss has {len(weight)} class weights, but the prediction has {classes} classes")
    return op.constant(np.asarray(weight, dtype=np.float64), scores.dtype)
