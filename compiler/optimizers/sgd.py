"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...passes.tape import Tensor
from .axpy import Axpy


@dataclass(frozen=True)
class SGDRule:
    """Stochastic gradient descent with heavy-ball or Nesterov momentum (Sutskever et al. 2013), as `torch.optim.SGD`.

    The momentum buffer starts as the first gradient, undampened. Weight decay, if there is any (*decays*), is added
    to the gradient.
    """

    momentum: float
    dampening: float
    nesterov: bool
    decays: bool

    @property
    def states(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    @property
    def scalars(self) -> tuple[str, ...]:
        return ("minus_lr", *(["weight_decay"] if self.decays else []), *(["share"] if self.momentum else []))

    def coefficients(self, step: int, lr: float, weight_decay: float) -> dict[str, float]:
        share = 1.0 if step == 1 else 1.0 - self.dampening
        values = {"minus_lr": -lr, "weight_decay": weight_decay, "share": share}
        return {name: values[name] for name in self.scalars}

    def next_states(
        self, gradient: Tensor, states: Mapping[str, Tensor], scalars: Mapping[str, Tensor], axpy: Axpy
    ) -> dict[str, Tensor]:
        if not self.momentum:
            return {}
        return {"momentum_buffer": axpy(scalars["share"], gradient, states["momentum_buffer"] * self.momentum)}

    def next_parameter(
        self,
        parameter: Tensor,
        gradient: Tensor,
        states: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        axpy: Axpy,
    ) -> Tensor:
        direction = states["momentum_buffer"] if self.momentum else gradient
        if self.nesterov:
            direction = axpy(self.momentum, direction, gradient)
        return axpy(scalars["minus_lr"], direction, parameter)
