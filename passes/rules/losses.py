"""Rules of the losses: SoftmaxCrossEntropyLoss, NegativeLogLikelihoodLoss."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattering import add_slices, chosen_elements

rules = Registry()


@rules.vjp("SoftmaxCrossEntropyLoss", inputs=(0, 2))
def softmax_cross_entropy_loss(n: Primal, dloss: Tensor | None, dlog_prob: Tensor | None = None) -> Sequence[Cotangent]:
    """c (softmax(scores) - onehot(labels)), where c is the weight of each sample in the loss.

    Samples whose label is `ignore_index` have zero gradient, also where all are ignored (PyTorch's convention).
    """
    op, scores = n.op, n.required(0)
    log_prob = n.outputs[1] if len(n.outputs) > 1 and n.outputs[1].value.name else None

    def cotangent() -> Tensor:
        # Also of the log-probabilities; unlike Exp, the runtime writes it over what it reads.
        prob = op.Softmax(scores if log_prob is None else log_prob, axis=1)
        terms = []
        if dloss is not None:
            terms.append(_less_one_at_label(n, prob) * _sample_weight(n, dloss))
        if dlog_prob is not None:
            terms.append(dlog_prob - prob * dlog_prob.sum([1], keepdims=True))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def weights_cotangent() -> Tensor | None:
        if dloss is None:
            return None
        return _weights_cotangent(n, dloss, op.LogSoftmax(scores, axis=1) if log_prob is None else log_prob)

    return cotangent, None, weights_cotangent


@rules.vjp("NegativeLogLikelihoodLoss", inputs=(0, 2))
def negative_log_likelihood_loss(n: Primal, dloss: Tensor) -> Sequence[Cotangent]:
    """-c at the label and zero at the other classes, where c is the weight of each sample in the loss.

    Samples whose label is `ignore_index` have zero gradient, also where all are ignored (PyTorch's convention).
    """
    op, log_prob = n.op, n.required(0)

    def cotangent() -> Tensor:
        labels, weight = _labels(n), -_sample_weight(n, dloss)
        hot = chosen_elements(log_prob, labels, 1)
        if hot is not None:
            return op.Where(hot, weight, op.constant(0, weight.dtype))
        return op.ScatterElements(op.zeros_like(log_prob), labels, op.Expand(weight, labels.sizes()), axis=1)

    return cotangent, None, lambda: _weights_cotangent(n, dloss, log_prob)


def negative_log_likelihood(n: Primal, log_prob: Tensor) -> Tensor:
    """The loss in primitives: -log_prob at the label times the weight of its class; the mean is over the weights.

    A label that is neither a class nor to be ignored makes the run fail on the CPU, as in PyTorch.
    """
    op, ignored, weights = n.op, _ignored(n), _weights(n)
    chosen = _wide(op.GatherElements(log_prob, _labels(n), axis=1))
    if weights is not None:
        chosen = chosen * weights
    if ignored is not None:
        # Selected, not multiplied by 0: log-probabilities of ignored samples may be infinite.
        chosen = op.Where(ignored, op.constant(0, chosen.dtype), chosen)
    match n.attr("reduction", "mean"):
        case "sum":
            loss = -chosen.sum()
        case "mean" if _counts(n):
            loss = chosen.sum() / _minus_ones(n).sum()
        case "mean":
            loss = -chosen.sum() / _total(n)
        case _:
            loss = -chosen.squeeze([1])
    return loss.cast(log_prob.dtype)


def _less_one_at_label(n: Primal, prob: Tensor) -> Tensor:
    """*prob* minus the onehot encoding of the labels; samples that are ignored may be left as they are."""
    op, labels = n.op, _labels(n)
    hot = chosen_elements(prob, labels, 1)
    if hot is not None:
        return prob - hot.cast(prob.dtype)
    if prob.dtype.bitwidth < 32:  # ONNX Runtime adds no narrower numbers up
        return op.ScatterElements(prob, labels, op.GatherElements(prob, labels, axis=1) - 1, axis=1)
    return op.ScatterElements(prob, labels, _minus_ones(n).cast(prob.dtype), axis=1, reduction="add")


# The values of each sample below have an axis of size 1 where the classes are: (N, 1, d1, …).


def _labels(n: Primal) -> Tensor:
    """The labels, with those to ignore made 0, and other negative ones, which would count from the end, no class."""
    ignored, labels = _ignored(n), n.required(1).unsqueeze([1])
    if ignored is not None:
        labels = n.op.Where(ignored, n.op.constant(0, labels.dtype), labels)
    return n.op.Where(labels < 0, n.required(0).sizes([1]).cast(labels.dtype), labels)


def _ignored(n: Primal) -> Tensor | None:
    """Which samples are ignored; None if the operator ignores none."""
    ignore_index = n.attr("ignore_index")
    return None if ignore_index is None else n.required(1).unsqueeze([1]).equals(ignore_index)


def _minus_ones(n: Primal) -> Tensor:
    """-1 for each sample, 0 for the ignored ones."""
    op, ignored, dtype = n.op, _ignored(n), _wide(n.required(0)).dtype
    if ignored is None:
        return op.Expand(op.constant(-1, dtype), n.required(1).unsqueeze([1]).sizes())
    return ignored.cast(dtype) - 1


def _weights(n: Primal) -> Tensor | None:
    """The weight of each sample's class, zero for the ignored ones; None without weights."""
    op, weights, ignored = n.op, n.input(2), _ignored(n)
    if weights is None:
        return None
    chosen = _wide(op.Gather(weights, _labels(n), axis=0))
    return chosen if ignored is None else op.Where(ignored, op.constant(0, chosen.dtype), chosen)


def _counts(n: Primal) -> bool:
    """Whether the mean is over those samples that are not ignored, each of weight 1."""
    return n.attr("reduction", "mean") == "mean" and n.input(2) is None and _ignored(n) is not None


def _total(n: Primal) -> Tensor:
    """The sum of the weights, of which the mean is, but for `_counts`."""
    weights = _weights(n)
    return n.required(1).count(dtype=_wide(n.required(0)).dtype) if weights is None else weights.sum()


def _spread(n: Primal, dloss: Tensor) -> Tensor:
    """The cotangent of each sample's weighted loss, but for `_counts`; a scalar where all are the same."""
    dloss = _wide(dloss)
    match n.attr("reduction", "mean"):
        case "mean":
            return dloss / _total(n)
        case "sum":
            return dloss
        case _:
            return dloss.unsqueeze([1])


def _sample_weight(n: Primal, dloss: Tensor) -> Tensor:
    """The cotangent of each sample's loss; a scalar where all are the same."""
    op, ignored, weights = n.op, _ignored(n), _weights(n)
    if _counts(n):
        minus = _minus_ones(n)
        # Where all are ignored, 0 is divided by 1.
        weight = _wide(dloss) / op.Min(minus.sum(), op.constant(-1, minus.dtype)) * minus
        return weight.cast(n.required(0).dtype)
    weight = _spread(n, dloss)
    if weights is not None:
        weight = weight * weights
    if ignored is not None:
        weight = op.Where(ignored, op.constant(0, weight.dtype), weight)
    return weight.cast(n.required(0).dtype)


def _weights_cotangent(n: Primal, dloss: Tensor, log_prob: Tensor) -> Tensor:
    """The losses (minus their mean, where that is the reduction) of each class's samples, added up."""
    op, ignored, labels = n.op, _ignored(n), _labels(n)
    loss = _wide(-op.GatherElements(log_prob, labels, axis=1))
    if n.attr("reduction", "mean") == "mean":
        loss = loss - _wide(n.outputs[0])
    loss = loss * _spread(n, dloss)
    if ignored is not None:
        loss = op.Where(ignored, op.constant(0, loss.dtype), loss)
    zeros = op.zeros_like(n.required(2)).cast(loss.dtype)
    return add_slices(zeros, labels.reshape([-1]), loss.reshape([-1]), 0)


def _wide(x: Tensor) -> Tensor:
    """*x* in a type in which a sum over all samples neither overflows nor rounds away: float32 for float16."""
    return x.cast(ir.DataType.FLOAT) if x.dtype.bitwidth < 32 else x
