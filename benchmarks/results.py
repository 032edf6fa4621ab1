"""What was measured: plain data, from which the report and the charts are drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Quartiles:
    """The median of some numbers, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Quartiles:
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class PeerResult:
    """One peer on one workload.

    Attributes:
        seconds: by operation, one number a round.
        load: seconds from the model to the loaded state.
        first_step: seconds of the first step.
        peak: bytes of resident memory in a step above the loaded state.
        gradient_error: the largest relative error of a parameter's gradient.
        failure: the first line of what went wrong; what was measured before it does not count.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    load: float | None = None
    first_step: float | None = None
    peak: int | None = None
    gradient_error: float | None = None
    failure: str | None = None

    def ratios(self, operation: str, to: Sequence[float]) -> Quartiles | None:
        """Round by round, to the seconds of another peer or operation; None if it was not measured."""
        own = self.seconds.get(operation)
        if self.failure or not own or not to:
            return None
        return Quartiles.of([a / b for a, b in zip(own, to, strict=False)])


@dataclass
class WorkloadResult:
    """One workload.

    Attributes:
        flops: of a forward pass, in its convolutions and matrix products.
        peers: by name, in the order of the tables; one that was not asked is not in it.
    """

    name: str
    summary: str
    flops: int
    peers: dict[str, PeerResult] = field(default_factory=dict)

    def seconds(self, peer: str, operation: str) -> list[float]:
        """One number a round; none if it was not measured or the peer failed."""
        result = self.peers.get(peer)
        return result.seconds.get(operation, []) if result and not result.failure else []

    def limit(self, gemm_flops: int) -> float | None:
        """The seconds that three forward passes take at the fastest rate of a square matrix product in any round."""
        gemm = [seconds for peer in self.peers for seconds in self.seconds(peer, "gemm")]
        return 3 * self.flops * min(gemm) / gemm_flops if gemm else None
