"""RESULTS.md: what was measured, in tables."""

from __future__ import annotations

import datetime
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .aims import compile_memory, find_aims
from .compile_time import CompileTime
from .gradient_check import TOLERANCE
from .measure import Plan
from .peers import BASELINE, OURS, PEERS
from .peers.peer import GEMM_SIZE
from .results import Quartiles, WorkloadResult

_GEMM_FLOPS = 2 * GEMM_SIZE**3
_MIB = 2**20


@dataclass(frozen=True)
class Report:
    """One run of the benchmark.

    Attributes:
        compiles: of generated models, smallest first.
        load: runnable processes when the run began.
        note: a sentence of the person who ran it.
    """

    results: Sequence[WorkloadResult]
    compiles: Sequence[CompileTime]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    plan: Plan
    date: datetime.date
    load: float
    note: str = ""

    def markdown(self) -> str:
        """The whole report."""
        sections = [
            self._head(),
            self._aims(),
            self._steps(),
            self._training(),
            self._forward(),
            self._memory(),
            self._compile(),
            self._errors(),
            self._failures(),
        ]
        return "\n\n".join(section.strip() for section in sections if section) + "\n"

    def _head(self) -> str:
        waiting = os.environ.get("OMP_WAIT_POLICY", "not set")
        machine = "\n".join(f"- {key}: {value}" for key, value in self.machine.items())
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        workloads = _table(
            ["workload", "model and batch", "forward GFLOP"],
            [[r.name, r.summary, f"{r.flops / 1e9:.3g}"] for r in self.results],
        )
        peers = "\n".join(f"- **{name}**: {PEERS[name].summary}" for name in self._peers())
        return f"""
# Side by side

Written by `make bench` on {self.date}. {self.note}

Times are ratios to PyTorch eager: less is faster. Each is the median over {self.plan.rounds} rounds, with its
quartiles. In each round every peer takes its turn, for {self.plan.seconds:g} s each operation, of which the fastest run
counts; so what else the machine does meets all of them, and a ratio is taken within a round.

{machine}
- threads for one operator, in every peer: {self.plan.threads}; OMP_WAIT_POLICY {waiting}
- processes running when the run began: {self.load:.1f}
- versions: {versions}

All is float32. The forward-only models are exported from PyTorch by `torch.onnx.export(dynamo=True)`; where the
exporter multiplies BatchNormalization into convolutions, PyTorch gets the model without it too. The loss is the mean
cross entropy. Every peer has a process of its own.

{workloads}

{peers}

![Step time by workload](step.png)

![Peak memory by workload](memory.png)
"""

    def _aims(self) -> str:
        rows = []
        for aim in find_aims(self.results, self.compiles):
            missed = ", ".join(f"{name} {_three(value)}" for name, value in aim.missed.items())
            bound = f"at {'least' if aim.at_least else 'most'} {aim.bound:g}"
            rows.append([aim.text, bound, _three(aim.worst), f"no: {missed}" if missed else "yes"])
        return f"""
## Aims, for two cores

{_table(["ratio, if not said otherwise", "aim", "worst", "reached"], rows)}
"""

    def _steps(self) -> str:
        return f"""
## Step: loss and all gradients

**limit** is 3 times the forward FLOPs at the rate of a {GEMM_SIZE}² float32 matrix product, the fastest of all rounds
in PyTorch and ONNX Runtime. **to best** is onnxgrad's ratio to the fastest other peer.

{self._ratios("step", limit=True)}
"""

    def _training(self) -> str:
        rows = []
        for result in self.results:
            alone, default = result.seconds(OURS, "adamw"), result.seconds(BASELINE, "adamw")
            fused = result.seconds(BASELINE, "adamw-fused")
            if alone and default:
                parameters = [_ms(statistics.median(s)) for s in (alone, default, fused)]
                ratios = (result.ratio(OURS, "adamw", BASELINE, other) for other in ("adamw", "adamw-fused"))
                rows.append([result.name, *parameters, *map(_ratio, ratios)])
        update = _table(["workload", OURS, "PyTorch foreach", "PyTorch fused", "to foreach", "to fused"], rows)
        return f"""
## Step and AdamW

PyTorch with its default AdamW (foreach). onnxsim has Adam without decay.

{self._ratios("train")}

AdamW alone:

{update}
"""

    def _forward(self) -> str:
        joint = []
        for result in self.results:
            own = result.ratio(OURS, "step", OURS, "forward")
            inference = result.ratio(OURS, "step", "onnxruntime", "forward")
            eager = result.ratio(BASELINE, "step", BASELINE, "forward")
            joint.append([result.name, _ratio(own), _ratio(inference), _ratio(eager)])
        table = _table(
            ["workload", "onnxgrad: step / its forward", "onnxgrad: step / inference session", "eager: step / forward"],
            joint,
        )
        return f"""
## Forward alone

{self._ratios("forward")}

{table}
"""

    def _memory(self) -> str:
        return f"""
## Memory: peak resident memory of a step above the loaded state

MiB, and as a ratio to eager.

{self._cells(lambda result, peer: _memory_cell(result, peer))}
"""

    def _compile(self) -> str:
        rows = []
        for result in self.results:
            own = result.peers.get(OURS)
            if own is None or own.compile is None or own.load is None or own.first_step is None:
                continue
            seconds = [
                f"{each:.2f}" for each in (own.compile, own.compile / result.nodes * 1000, own.load, own.first_step)
            ]
            memory, times = "–", compile_memory(result)
            if own.compile_peak is not None and times is not None:
                memory = f"{own.compile_peak / _MIB:.0f} ({times:.1f})"
            rows.append([result.name, f"{result.nodes}", *seconds, f"{result.size / _MIB:.1f}", memory])
        parts = _table(
            [
                *("workload", "forward nodes", "compile", "for 1,000 nodes", "create the session", "first step"),
                *("model, MiB", "peak while compiling, MiB (× model)"),
            ],
            rows,
        )
        generated = _table(
            ["forward nodes", "compile", "for 1,000 nodes"],
            [[f"{c.nodes:,}", f"{c.seconds:.2f}", f"{c.of_a_thousand:.2f}"] for c in self.compiles],
        )
        return f"""
## Time to first step

Seconds from the model to the first gradients: loading and compiling, creating the session, one step.

{self._cells(lambda result, peer: _first_step_cell(result, peer))}

Of onnxgrad: `compile` is from the forward model's file to the joint graph's, the first in its process, after the
imports.

{parts}

Generated residual networks:

{generated}
"""

    def _errors(self) -> str:
        return f"""
## Gradients against PyTorch's

The largest relative error of a parameter's gradient, in norm. {TOLERANCE:g} or more fails the peer.

{self._cells(lambda result, peer: _error_cell(result, peer), others=True)}
"""

    def _failures(self) -> str:
        lines = [
            f"- **{result.name}, {name}**: `{_shortened(peer.failure)}`"
            for result in self.results
            for name, peer in result.peers.items()
            if peer.failure
        ]
        return "## What failed\n\n" + "\n".join(lines) if lines else ""

    def _peers(self, operation: str = "") -> list[str]:
        """The peers that were asked, and that *operation* was timed for, in the order of the tables."""
        asked = [name for name in PEERS if any(name in result.peers for result in self.results)]
        if not operation:
            return asked
        if operation == "step":
            return [name for name in asked if PEERS[name].trains]
        return [name for name in asked if any(result.seconds(name, operation) for result in self.results)]

    def _ratios(self, operation: str, *, limit: bool = False) -> str:
        peers = [name for name in self._peers(operation) if name != BASELINE]
        head = ["workload", "eager, ms", *peers, *(["limit"] if limit else []), "to best"]
        rows, columns, best = [], {name: [] for name in peers}, []
        for result in self.results:
            base = result.seconds(BASELINE, operation)
            row = [result.name, _ms(statistics.median(base)) if base else "fails"]
            for name in peers:
                ratio = result.ratio(name, operation, BASELINE)
                if ratio:
                    columns[name].append(ratio.median)
                row.append(_ratio(ratio) if ratio else _absence(result, name))
            if limit:
                seconds = result.limit(_GEMM_FLOPS)
                row.append(f"{seconds / statistics.median(base):.2f}" if seconds and base else "–")
            to_best = result.to_best(operation)
            if to_best:
                best.append(to_best.median)
            rows.append([*row, _plain(to_best)])
        complete = len(self.results)
        means = [_mean(columns[name]) if len(columns[name]) == complete else "" for name in peers]
        overall = _mean(best) if len(best) == complete else ""
        rows.append(["geometric mean", "", *means, *([""] if limit else []), overall])
        return _table(head, rows)

    def _cells(self, cell: Callable[[WorkloadResult, str], str], *, others: bool = False) -> str:
        peers = [name for name in self._peers("step") if not (others and name == BASELINE)]
        return _table(["workload", *peers], [[r.name, *(cell(r, name) for name in peers)] for r in self.results])


def _shortened(failure: str) -> str:
    """The start and the end of a long message: C++ libraries begin with the place in their source."""
    failure = failure.replace("`", "'")
    return failure if len(failure) <= 300 else f"{failure[:140]} … {failure[-150:]}"


def _memory_cell(result: WorkloadResult, name: str) -> str:
    peer, ratio = result.peers.get(name), result.memory_ratio(name)
    if peer is None or peer.failure or peer.peak is None:
        return _absence(result, name)
    return f"{peer.peak / _MIB:.1f}" + (f" ({ratio:.2f})" if ratio is not None and name != BASELINE else "")


def _first_step_cell(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    seconds = peer.to_first_step if peer else None
    return _absence(result, name) if seconds is None else f"{seconds:.2f}"


def _error_cell(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    return f"{peer.gradient_error:.0e}" if peer and peer.gradient_error is not None else _absence(result, name)


def _absence(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    return "fails" if peer and peer.failure else "–"


def _mean(ratios: Sequence[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else ""


def _ratio(ratio: Quartiles | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else "–"


def _plain(ratio: Quartiles | None) -> str:
    return f"{ratio.median:.2f}" if ratio else "–"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
