"""What onnxgrad aims at on a CPU of two cores, beside what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .compile_time import CompileTime
from .peers import BASELINE, CHECKPOINTED, OURS, OVERHEAD
from .results import Quartiles, WorkloadResult

TRANSFORMERS = ("vit", "bert", "gpt2")
LARGE = 32 * 2**20
"""A model of fewer bytes takes less than Python does."""


@dataclass(frozen=True)
class Aim:
    """One aim.

    Attributes:
        text: what is measured.
        bound: the most, or the least, that it may be.
        measured: by workload, or by whatever it was measured on.
        at_least: whether *bound* is the least.
    """

    text: str
    bound: float
    measured: Mapping[str, float]
    at_least: bool = False

    @property
    def missed(self) -> dict[str, float]:
        """What is beyond the bound, the worst first."""
        beyond = {k: v for k, v in self.measured.items() if (v < self.bound if self.at_least else v > self.bound)}
        return dict(sorted(beyond.items(), key=lambda item: item[1], reverse=not self.at_least))

    @property
    def worst(self) -> float:
        return (min if self.at_least else max)(self.measured.values())


def find_aims(results: Sequence[WorkloadResult], compiles: Sequence[CompileTime]) -> list[Aim]:
    """The aims of which something was measured."""
    best = _each(results, lambda result: _median(result.to_best("step")))
    checkpointed = [result for result in results if result.name in TRANSFORMERS]
    aims = [
        Aim("step, to the best peer", 1.0, best),
        Aim(
            "step, to the best peer: geometric mean",
            0.85,
            {"all": statistics.geometric_mean(best.values())} if best else {},
        ),
        Aim("step and AdamW, to the best peer", 1.0, _each(results, lambda r: _median(r.to_best("train")))),
        Aim(
            "AdamW alone, to PyTorch's foreach",
            0.5,
            _each(results, lambda r: _median(r.ratio(OURS, "adamw", BASELINE))),
        ),
        Aim(
            "AdamW alone, to PyTorch's fused",
            3.0,
            _each(results, lambda r: _median(r.ratio(OURS, "adamw", BASELINE, "adamw-fused"))),
        ),
        Aim("step, to its own forward part", 3.2, _joint(results, ("mlp", *TRANSFORMERS))),
        Aim("step, to its own forward part", 3.6, _joint(results, ("resnet18",))),
        Aim("peak memory, to eager", 1.0, _each(results, lambda r: r.memory_ratio(OURS))),
        Aim("peak memory with checkpoints, to eager", 0.5, _each(checkpointed, lambda r: r.memory_ratio(CHECKPOINTED))),
        Aim(
            "step with checkpoints, to a step without",
            1.33,
            _each(checkpointed, lambda r: _median(r.ratio(CHECKPOINTED, "step", OURS))),
        ),
        Aim("seconds to compile 1,000 nodes", 1.0, {f"{c.nodes:,} nodes": c.of_a_thousand for c in compiles}),
        Aim(
            "peak memory of compiling, to the size of the model (from 32 MiB)",
            3.0,
            _each((r for r in results if r.size >= LARGE), compile_memory),
        ),
        Aim(
            "torch.compile's time to the first step, to onnxgrad's",
            10.0,
            _each((r for r in results if r.name in ("resnet18", "bert")), _against_torch_compile),
            at_least=True,
        ),
        Aim("overhead of `session.backward`, µs", 50.0, _each(results, overhead)),
    ]
    return [aim for aim in aims if aim.measured]


def compile_memory(result: WorkloadResult) -> float | None:
    """The peak of memory while onnxgrad compiles, to the size of the model's file."""
    own = result.peers.get(OURS)
    return own.compile_peak / result.size if own and not own.failure and own.compile_peak is not None else None


def overhead(result: WorkloadResult) -> float | None:
    """Microseconds of `session.backward` above a bare run of the same graph."""
    pairs = zip(result.seconds(OVERHEAD, "backward"), result.seconds(OVERHEAD, "bare"), strict=False)
    above = [(backward - bare) * 1e6 for backward, bare in pairs]
    return statistics.median(above) if above else None


def _joint(results: Sequence[WorkloadResult], names: Sequence[str]) -> dict[str, float]:
    chosen = (result for result in results if result.name in names)
    return _each(chosen, lambda result: _median(result.ratio(OURS, "step", OURS, "forward")))


def _against_torch_compile(result: WorkloadResult) -> float | None:
    own, other = (result.peers.get(name) for name in (OURS, "torch.compile"))
    ours, theirs = (peer.to_first_step if peer else None for peer in (own, other))
    return theirs / ours if ours and theirs else None


def _each(results: Iterable[WorkloadResult], measure: Callable[[WorkloadResult], float | None]) -> dict[str, float]:
    found = {result.name: measure(result) for result in results}
    return {name: value for name, value in found.items() if value is not None}


def _median(ratio: Quartiles | None) -> float | None:
    return ratio.median if ratio else None
