"""Losses of class scores: cross entropy, negative log-likelihood, binary cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ...passes.errors import InputError
from ...passes.tape import Tape, Tensor
from .base import Loss, without_axis
from .chunked import find_score_product, losses_in_chunks


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
        chunk: compute the loss together with the model's last product, so many samples at a time: the scores of all
            of them never exist, which saves most of the memory where there are many classes (a vocabulary), for the
            time of one product more. The scores must be [N, C], straight from a MatMul or Gemm, and are then no
            output of the program. None: all at once.
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    weight: Sequence[float] | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise InputError(f"CrossEntropy: label_smoothing is between 0 and 1, not {self.label_smoothing}")
        if self.chunk is not None and not (isinstance(self.chunk, int) and self.chunk > 0):
            raise InputError(f"CrossEntropy: chunk is a number of samples, at least 1, not {self.chunk!r}")

    @property
    def keeps_prediction(self) -> bool:
        return self.chunk is None

    def label_type(self, prediction: Tensor) -> tuple[ir.DataType, ir.Shape]:
        return ir.DataType.INT64, _without_classes(prediction)

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        if self.chunk is not None:
            return self._chunked(op, prediction, label, self.chunk)
        scores, label, single = _batched(prediction, label)
        loss = self._of(scores, label)
        return loss.squeeze([0]) if single and self.reduction == "none" else loss

    def _of(self, scores: Tensor, label: Tensor) -> Tensor:
        op = scores.op
        if self.label_smoothing:
            label = _out_of_range_fails(op, scores.sizes([1]), label, self.ignore_index)
            return self._smoothed(op, op.LogSoftmax(scores, axis=1), label)
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
        return loss

    def _chunked(self, op: Tape, prediction: Tensor, label: Tensor, chunk: int) -> Tensor:
        product = find_score_product(prediction)
        label = _out_of_range_fails(op, product.classes, label, self.ignore_index)
        losses = losses_in_chunks(op, product, label, chunk, replace(self, reduction="none")._of)
        if self.reduction == "none":
            return losses
        wide = losses.cast(ir.DataType.FLOAT) if losses.dtype.bitwidth < 32 else losses
        total = wide.sum()
        if self.reduction == "mean":
            total = total / self._shares(op, prediction, label).cast(total.dtype).sum()
        return total.cast(losses.dtype)

    def _shares(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        """What each sample counts in the mean: its class's weight, 0 if it is ignored."""
        counts, weight = op.Not(label.equals(self.ignore_index)), _class_weights(op, prediction, self.weight)
        if weight is None:
            return counts
        zero = op.constant(0, weight.dtype)
        known = op.Where(counts, label, op.constant(0, label.dtype))
        return op.Where(counts, op.Gather(weight, known, axis=0), zero)

    def _smoothed(self, op: Tape, log_prob: Tensor, label: Tensor) -> Tensor:
        """(1 - s) of the loss of the label and s / C of the losses of all classes (arXiv:1512.00567, section 7)."""
        ignored = label.equals(self.ignore_index)
        known = op.Where(ignored, op.constant(0, label.dtype), label)
        zero, one = op.constant(0, log_prob.dtype), op.constant(1, log_prob.dtype)
        of_label = -op.GatherElements(log_prob, known.unsqueeze([1]), axis=1).squeeze([1])
        weight = _class_weights(op, log_prob, self.weight)
        if weight is None:
            share, of_all = op.Where(ignored, zero, one), -log_prob.sum([1])
        else:
            of_class = op.Gather(weight, known, axis=0)
            share, of_label = op.Where(ignored, zero, of_class), of_label * of_class
            of_all = -(log_prob * weight.reshape([1, -1, *[1] * (log_prob.rank - 2)])).sum([1])
        smoothing = self.label_smoothing / log_prob.count([1])
        # Selected, not multiplied by 0: scores of ignored samples may be infinite, and the seed too if all are ignored.
        losses = op.Where(ignored, zero, of_label * (1.0 - self.label_smoothing) + of_all * smoothing)
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
        return ir.DataType.INT64, _without_classes(prediction)

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        scores, label, single = _batched(prediction, label)
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
            positive = _element_weights(op, prediction, "pos_weight", self.pos_weight)
            negative = negative * ((positive - 1.0) * label + 1.0)
        losses = (1.0 - label) * prediction + negative
        if self.weight is not None:
            losses = losses * _element_weights(op, prediction, "weight", self.weight)
        return self.reduce(losses)


def _without_classes(prediction: Tensor) -> ir.Shape:
    if prediction.rank == 0:
        raise InputError(
            f"The prediction {prediction.value.name!r} is a scalar, but this loss needs a score for each class: "
            "[N, C, …] or [C]"
        )
    return without_axis(prediction, min(1, prediction.rank - 1))


def _batched(prediction: Tensor, label: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Scores and label with a batch axis, and whether it was missing."""
    if prediction.rank > 1:
        return prediction, label, False
    return prediction.unsqueeze([0]), label.unsqueeze([0]), True


def _out_of_range_fails(op: Tape, classes: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Make negative labels, which index operators count from the end, invalid; the one to ignore stays."""
    negative = label < 0
    if ignore_index < 0:
        negative = op.And(negative, op.Not(label.equals(ignore_index)))
    return op.Where(negative, classes, label)


def _class_weights(op: Tape, scores: Tensor, weight: Sequence[float] | None) -> Tensor | None:
    if weight is None:
        return None
    factors, classes = _numbers("weight", weight), scores.shape[1]
    if factors.ndim != 1:
        raise InputError(f"weight has one factor for each class, not the shape {list(factors.shape)}")
    if isinstance(classes, int) and len(factors) != classes:
        raise InputError(f"weight has {len(factors)} factors, but the prediction has {classes} classes")
    return op.constant(factors, scores.dtype)


def _element_weights(op: Tape, prediction: Tensor, option: str, weight: Sequence[Any] | float) -> Tensor:
    factors, shape = _numbers(option, weight), prediction.shape
    fits = factors.ndim <= len(shape) and all(
        size in (1, dim) or not isinstance(dim, int)
        for size, dim in zip(reversed(factors.shape), reversed(shape), strict=False)
    )
    if not fits:
        raise InputError(
            f"{option} of shape {list(factors.shape)} does not broadcast to the prediction, of shape {list(shape)}"
        )
    return op.constant(factors, prediction.dtype)


def _numbers(option: str, value: Sequence[Any] | float) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{option} is a number or an array of numbers, not {value!r}") from None
