"""The backward part of one forward run, to be called as often as there are cotangents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .feeds import Array


class _Session(Protocol):
    def pull_back(
        self,
        residuals: Mapping[str, Array],
        grad_outputs: Mapping[str, Array] | None,
        *,
        accumulate: bool,
        forward_feeds: Mapping[str, Array] | None,
    ) -> dict[str, Any]: ...


class Pullback:
    """Turns cotangents of the outputs into gradients; it holds the residuals of the forward run that it belongs to.

    The parameters that the backward part reads are those at the time of the call, not of the forward run.
    """

    def __init__(
        self, session: _Session, residuals: Mapping[str, Array], forward_feeds: Mapping[str, Array] | None = None
    ) -> None:
        self._session = session
        self.residuals = residuals
        self._forward_feeds = forward_feeds

    def __call__(self, grad_outputs: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Fresh gradients by the primal's name; *grad_outputs* as in `Session.grad`."""
        return self._pull_back(grad_outputs, accumulate=False)

    def backward(self, grad_outputs: Mapping[str, Array] | None = None) -> None:
        """Add the gradients to the session's `grads`."""
        self._pull_back(grad_outputs, accumulate=True)

    def _pull_back(self, grad_outputs: Mapping[str, Array] | None, *, accumulate: bool) -> dict[str, Any]:
        return self._session.pull_back(
            self.residuals, grad_outputs, accumulate=accumulate, forward_feeds=self._forward_feeds
        )
