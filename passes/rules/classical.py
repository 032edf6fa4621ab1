"""Rules of the operators of ai.onnx.ml: linear models, scalers, normalizers, features.

Their coefficients are attributes, so the gradients are those of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattering import add_slices
from .slicing import crop, zero_pad

CLASSICAL = "ai.onnx.ml"

rules = Registry()


@rules.vjp("LinearRegressor", domain=CLASSICAL)
def linear_regressor(n: Primal, dy: Tensor) -> Cotangent:
    """dx = ds W, where ds is the cotangent of the scores x Wᵀ + b before the post-transform."""

    def cotangent() -> Tensor:
        scores = _before_transform(n, n.outputs[0], dy)
        return (scores @ _coefficients(n, dy, n.attr("targets", 1))).reshape_like(n.required(0))

    return cotangent


@rules.vjp("LinearClassifier", domain=CLASSICAL)
def linear_classifier(n: Primal, _: Tensor | None, dy: Tensor | None = None) -> Cotangent:
    """dx = ds W, where ds is the cotangent of the scores x Wᵀ + b before the post-transform; labels have no gradient.

    A single row of coefficients for two labels gives the scores (1 - s, s), or (σ(-s), σ(s)) for LOGISTIC, as ONNX
    Runtime computes them.
    """
    if dy is None:
        return None
    labels = n.attr("classlabels_ints") or n.attr("classlabels_strings") or ()
    width = n.required(0).shape[-1]
    if not isinstance(width, int):
        raise n.refuse("the number of features is unknown; make the last axis of its input static")
    count = len(n.attr("coefficients")) // width

    def cotangent() -> Tensor:
        if count == 1 and len(labels) == 2:
            transform = n.attr("post_transform", "NONE")
            if transform == "PROBIT":
                raise n.refuse("the scores of one row of coefficients after PROBIT are not defined")
            scores = crop(dy, {1: (1, 2)}) - crop(dy, {1: (0, 1)})
            if transform == "LOGISTIC":
                y = crop(n.outputs[1], {1: (1, 2)})
                scores = scores * y * (1.0 - y)
        else:
            scores = _before_transform(n, n.outputs[1], dy)
        return (scores @ _coefficients(n, dy, count)).reshape_like(n.required(0))

    return cotangent


def _coefficients(n: Primal, dy: Tensor, rows: int) -> Tensor:
    return n.op.constant(np.reshape(n.attr("coefficients"), (rows, -1)), dy.dtype)


def _before_transform(n: Primal, y: Tensor, dy: Tensor) -> Tensor:
    """The cotangent of what the post-transform gives *y* for."""
    op, transform = n.op, n.attr("post_transform", "NONE")
    if transform == "NONE":
        return dy
    if transform == "LOGISTIC":
        return dy * y * (1.0 - y)
    if transform in ("SOFTMAX", "SOFTMAX_ZERO"):
        # A score of 0 is left out by SOFTMAX_ZERO, and has the probability 0.
        return y * (dy - (dy * y).sum([-1], keepdims=True))
    if transform == "PROBIT":  # y is the quantile of the normal distribution
        return dy * op.Exp(y * y * 0.5) * math.sqrt(2 * math.pi)
    raise n.refuse(f"there is no post_transform {transform!r}")


@rules.vjp("Scaler", domain=CLASSICAL)
def scaler(n: Primal, dy: Tensor) -> Cotangent:
    """dx = scale dy."""
    return lambda: dy * n.op.constant(n.attr("scale"), dy.dtype)


@rules.vjp("Normalizer", domain=CLASSICAL)
def normalizer(n: Primal, dy: Tensor) -> Cotangent:
    """dx = (dy - ∂N Σ dy y) / N, of y = x / N(x), where N is the maximum, Σ |x| or √Σ x² of each row.

    Equal maxima share their cotangent evenly. The cotangent of a row whose N is 0, which stays as it is, is dy.
    """
    op, norm = n.op, n.attr("norm", "MAX")

    def cotangent() -> Tensor:
        x, y = n.required(0).cast(dy.dtype), n.outputs[0]
        if norm == "MAX":
            size = op.ReduceMax(x, op.ints([-1]), keepdims=1)
            largest = x.equals(size).cast(dy.dtype)
            slope = largest / largest.sum([-1], keepdims=True)
        else:
            size = (op.Abs(x) if norm == "L1" else x * x).sum([-1], keepdims=True)
            slope = op.Sign(x) if norm == "L1" else y
        stays = size.equals(0.0)
        size = op.Where(stays, op.constant(1.0, dy.dtype), size)
        size = op.Sqrt(size) if norm == "L2" else size
        return op.Where(stays, dy, (dy - slope * (dy * y).sum([-1], keepdims=True)) / size)

    return cotangent


@rules.vjp("Imputer", domain=CLASSICAL)
def imputer(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy where x was not replaced, 0 where it was."""
    op, x, replaced = n.op, n.required(0), float(n.attr("replaced_value_float", 0.0))

    def cotangent() -> Tensor:
        missing = op.IsNaN(x) if math.isnan(replaced) else x.equals(replaced)
        return op.Where(missing, op.constant(0.0, dy.dtype), dy)

    return cotangent


@rules.vjp("FeatureVectorizer", domain=CLASSICAL)
def feature_vectorizer(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent is cut into the pieces that were put together, each cropped or padded to its input's width."""
    widths = n.attr("inputdimensions")
    edges = np.cumsum([0, *widths]).tolist()

    def piece(index: int) -> Tensor:
        x = n.required(index)
        width = x.shape[-1]
        if not isinstance(width, int):
            raise n.refuse(f"the width of its input {index} is unknown; make its last axis static")
        taken = min(width, widths[index])
        part = crop(dy, {1: (edges[index], edges[index] + taken)})
        return zero_pad(part, {1: (0, width - taken)}).reshape_like(x)

    return [partial(piece, index) for index in range(len(n.inputs))]


@rules.vjp("ArrayFeatureExtractor", domain=CLASSICAL, inputs=(0,))
def array_feature_extractor(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangents are added up at the positions of the last axis that were read."""
    x, positions = n.required(0), n.required(1).reshape([-1])

    def cotangent() -> Tensor:
        read = dy.squeeze([0]) if x.rank == 1 else dy
        return add_slices(n.op.zeros_like(x), positions, read, x.rank - 1)

    return (cotangent,)


rules.zero(
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
    domain=CLASSICAL,
    reason="a tree is piecewise constant in its input, so its derivative is 0",
)
rules.zero("Binarizer", domain=CLASSICAL, reason="it is piecewise constant, so its derivative is 0")
rules.zero(
    "CategoryMapper",
    "LabelEncoder",
    "OneHotEncoder",
    domain=CLASSICAL,
    reason="it looks its input up among given values",
)
rules.nondifferentiable(
    "CastMap",
    "DictVectorizer",
    "ZipMap",
    domain=CLASSICAL,
    reason="it works on maps; differentiate the tensors before it",
)
