"""Losses of differences: mean squared, absolute, smooth and Huber; and the Kullback-Leibler divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...passes.errors import InputError
from ...passes.tape import Tape, Tensor
from .base import Loss


@dataclass(frozen=True)
class MSE(Loss):
    """`torch.nn.functional.mse_loss`: (x - y)²."""

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        difference = prediction - label
        return self.reduce(difference * difference)


@dataclass(frozen=True)
class L1(Loss):
    """`torch.nn.functional.l1_loss`: |x - y|."""

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        return self.reduce(op.Abs(prediction - label))


@dataclass(frozen=True)
class SmoothL1(Loss):
    """`torch.nn.functional.smooth_l1_loss`: (x - y)² / 2β where |x - y| < β, else |x - y| - β/2."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise InputError(f"SmoothL1: beta is not negative, not {self.beta}")

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        distance = op.Abs(prediction - label)
        if self.beta == 0:
            return self.reduce(distance)
        near = distance * distance * (0.5 / self.beta)
        return self.reduce(op.Where(distance < self.beta, near, distance - 0.5 * self.beta))


@dataclass(frozen=True)
class Huber(Loss):
    """`torch.nn.functional.huber_loss`: (x - y)² / 2 where |x - y| <= δ, else δ (|x - y| - δ/2)."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delta <= 0:
            raise InputError(f"Huber: delta is positive, not {self.delta}")

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        distance = op.Abs(prediction - label)
        near = distance * distance * 0.5
        return self.reduce(op.Where(distance <= self.delta, near, (distance - 0.5 * self.delta) * self.delta))


@dataclass(frozen=True)
class KLDivergence(Loss):
    """`torch.nn.functional.kl_div`: y (log y - x), with x a log-probability; 0 where y is 0.

    Attributes:
        log_target: the labels are log-probabilities too: exp(y) (y - x).
        reduction: also "batchmean", the sum divided by the size of the first axis.
    """

    log_target: bool = False

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none", "batchmean")

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        if self.log_target:
            losses = op.Exp(label) * (label - prediction)
        else:
            positive = label > 0
            entropy = op.Where(positive, label * op.Log(op.Where(positive, label, op.full_like(label, 1))), label * 0.0)
            losses = entropy - label * prediction
        if self.reduction == "batchmean":
            return losses.sum() / prediction.count([0])
        return self.reduce(losses)
