"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...passes.tape import Tensor
from .axpy import Axpy


@dataclass(frozen=True)
class AdamRule:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) if *decoupled*, as `torch.optim` computes them.

    Weight decay, if there is any (*decays*), is added to the gradient in Adam and shrinks the parameter in AdamW.
    The bias corrections are folded into the step size and into eps (end of section 2 in Kingma & Ba).
    """

    betas: tuple[float, float]
    eps: float
    decoupled: bool
    decays: bool

    @property
    def states(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    @property
    def scalars(self) -> tuple[str, ...]:
        decay = "shrink" if self.decoupled else "weight_decay"
        return ("minus_step_size", "eps", *([decay] if self.decays else []))

    def coefficients(self, step: int, lr: float, weight_decay: float) -> dict[str, float]:
        beta1, beta2 = self.betas
        root = math.sqrt(1 - beta2**step)
        values = {
            "minus_step_size": -lr * root / (1 - beta1**step),
            "eps": self.eps * root,
            "shrink": 1 - lr * weight_decay,
            "weight_decay": weight_decay,
        }
        return {name: values[name] for name in self.scalars}

    def next_states(
        self, gradient: Tensor, states: Mapping[str, Tensor], scalars: Mapping[str, Tensor], axpy: Axpy
    ) -> dict[str, Tensor]:
        beta1, beta2 = self.betas
        return {
            "exp_avg": axpy(1 - beta1, gradient, states["exp_avg"] * beta1),
            "exp_avg_sq": axpy(1 - beta2, gradient * gradient, states["exp_avg_sq"] * beta2),
        }

    def next_parameter(
        self,
        parameter: Tensor,
        gradient: Tensor,
        states: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        axpy: Axpy,
    ) -> Tensor:
        direction = states["exp_avg"] / (gradient.op.Sqrt(states["exp_avg_sq"]) + scalars["eps"])
        kept = parameter * scalars["shrink"] if "shrink" in scalars else parameter
        return axpy(scalars["minus_step_size"], direction, kept)
