"""What an optimizer's rule is: the arithmetic of one step on one flat buffer, emitted as nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...passes.tape import Tensor
from .axpy import Axpy


class UpdateRule(Protocol):
    """One optimizer. Everything that changes from step to step or from group to group is a scalar input, [1, 1].

    Attributes:
        states: the names of the tensors it keeps for each parameter, of the parameter's shape, zero at first.
        scalars: the names of its scalar inputs; `weight_decay` among them is that share of the parameter which is
            added to the gradient.
    """

    @property
    def states(self) -> tuple[str, ...]: ...

    @property
    def scalars(self) -> tuple[str, ...]: ...

    def coefficients(self, step: int, lr: float, weight_decay: float) -> dict[str, float]:
        """The values of the scalar inputs at *step*, counted from 1."""
        ...

    def next_states(
        self, gradient: Tensor, states: Mapping[str, Tensor], scalars: Mapping[str, Tensor], axpy: Axpy
    ) -> dict[str, Tensor]:
        """Emit what the states become. Weight decay that is part of the gradient is in it already."""
        ...

    def next_parameter(
        self,
        parameter: Tensor,
        gradient: Tensor,
        states: Mapping[str, Tensor],
        scalars: Mapping[str, Tensor],
        axpy: Axpy,
    ) -> Tensor:
        """Emit what the parameter becomes, from the states as they are now stored."""
        ...
