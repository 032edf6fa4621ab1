"""What was measured: plain data, from which the report and the charts are drawn."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from .peers import BASELINE, OURS, PEERS


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
        compile: seconds from the model to what is loaded, where that is a step of its own.
        compile_peak: bytes of resident memory meanwhile above what there was before.
        load: seconds from there, or from the model, to the loaded state.
        first_step: seconds of the first step.
        peak: bytes of resident memory in a step above the loaded state.
        gradient_error: the largest relative error of a parameter's gradient.
        failure: the first line of what went wrong; what was measured before it does not count.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    compile: float | None = None
    compile_peak: int | None = None
    load: float | None = None
    first_step: float | None = None
    peak: int | None = None
    gradient_error: float | None = None
    failure: str | None = None

    @property
    def to_first_step(self) -> float | None:
        """Seconds from the model to the first gradients."""
        if self.failure or self.compile is None or self.load is None or self.first_step is None:
            return None
        return self.compile + self.load + self.first_step


@dataclass
class WorkloadResult:
    """One workload.

    Attributes:
        flops: of a forward pass, in its convolutions and matrix products.
        nodes: of the forward model.
        size: of the forward model's file, in bytes.
        peers: by name, in the order of the tables; one that was not asked is not in it.
    """

    name: str
    summary: str
    flops: int
    nodes: int
    size: int
    peers: dict[str, PeerResult] = field(default_factory=dict)

    def seconds(self, peer: str, operation: str) -> list[float]:
        """One number a round; none if it was not measured or the peer failed."""
        result = self.peers.get(peer)
        return result.seconds.get(operation, []) if result and not result.failure else []

    def ratio(self, peer: str, operation: str, other: str, other_operation: str = "") -> Quartiles | None:
        """Of *peer*'s seconds to those of *other*, by default in the same operation, round by round; None without."""
        own, base = self.seconds(peer, operation), self.seconds(other, other_operation or operation)
        return Quartiles.of([a / b for a, b in zip(own, base, strict=False)]) if own and base else None

    def to_best(self, operation: str) -> Quartiles | None:
        """The ratio of onnxgrad's seconds to those of the peer that is fastest."""
        others = [name for name in self.peers if not PEERS[name].ours and self.seconds(name, operation)]
        best = min(others, key=lambda name: statistics.median(self.seconds(name, operation)), default="")
        return self.ratio(OURS, operation, best)

    def memory_ratio(self, peer: str) -> float | None:
        """Of *peer*'s peak to the baseline's."""
        own, base = self.peers.get(peer), self.peers[BASELINE].peak
        return own.peak / base if own and not own.failure and own.peak is not None and base else None

    def limit(self, gemm_flops: int) -> float | None:
        """The seconds that three forward passes take at the fastest rate of a square matrix product in any round."""
        gemm = [seconds for peer in self.peers for seconds in self.seconds(peer, "gemm")]
        return 3 * self.flops * min(gemm) / gemm_flops if gemm else None
