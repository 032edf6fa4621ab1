"""RESULTS.md: what was measured, in tables."""

from __future__ import annotations

import datetime
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .gradient_check import TOLERANCE
from .measure import Plan
from .peers import BASELINE, PEERS
from .peers.peer import GEMM_SIZE
from .results import Quartiles, WorkloadResult

_GEMM_FLOPS = 2 * GEMM_SIZE**3
_OURS = "onnxgrad"
_MIB = 2**20


@dataclass(frozen=True)
class Report:
    """One run of the benchmark.

    Attributes:
        load: runnable processes when the run began.
        note: a sentence of the person who ran it.
    """

    results: Sequence[WorkloadResult]
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
            alone, default = result.seconds(_OURS, "adamw"), result.seconds(BASELINE, "adamw")
            fused = result.seconds(BASELINE, "adamw-fused")
            if alone and default:
                parameters = [_ms(statistics.median(s)) for s in (alone, default, fused)]
                rows.append([result.name, *parameters, _ratio(_of(alone, default)), _ratio(_of(alone, fused))])
        update = _table(["workload", _OURS, "PyTorch foreach", "PyTorch fused", "to foreach", "to fused"], rows)
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
            own = _of(result.seconds(_OURS, "step"), result.seconds(_OURS, "forward"))
            inference = _of(result.seconds(_OURS, "step"), result.seconds("onnxruntime", "forward"))
            eager = _of(result.seconds(BASELINE, "step"), result.seconds(BASELINE, "forward"))
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
        return f"""
## Time to first step

Seconds from the model to the first gradients: loading and compiling, creating the session, one step.

{self._cells(lambda result, peer: _first_step_cell(result, peer))}
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
        if operation != "forward":
            asked = [name for name in asked if name != "onnxruntime"]
        else:
            asked = [name for name in asked if any(result.seconds(name, operation) for result in self.results)]
        return asked

    def _ratios(self, operation: str, *, limit: bool = False) -> str:
        peers = [name for name in self._peers(operation) if name != BASELINE]
        head = ["workload", "eager, ms", *peers, *(["limit"] if limit else []), "to best"]
        rows, columns, best = [], {name: [] for name in peers}, []
        for result in self.results:
            base = result.seconds(BASELINE, operation)
            row = [result.name, _ms(statistics.median(base)) if base else "fails"]
            for name in peers:
                ratio = _of(result.seconds(name, operation), base)
                if ratio:
                    columns[name].append(ratio.median)
                row.append(_ratio(ratio) if ratio else _absence(result, name))
            if limit:
                seconds = result.limit(_GEMM_FLOPS)
                row.append(f"{seconds / statistics.median(base):.2f}" if seconds and base else "–")
            to_best = _to_best(result, operation)
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


def _to_best(result: WorkloadResult, operation: str) -> Quartiles | None:
    others = [result.seconds(name, operation) for name in result.peers if name != _OURS]
    fastest = min((s for s in others if s), key=statistics.median, default=[])
    return _of(result.seconds(_OURS, operation), fastest)


def _memory_cell(result: WorkloadResult, name: str) -> str:
    peer, base = result.peers.get(name), result.peers[BASELINE].peak
    if peer is None or peer.failure or peer.peak is None:
        return _absence(result, name)
    ratio = f" ({peer.peak / base:.2f})" if base and name != BASELINE else ""
    return f"{peer.peak / _MIB:.1f}{ratio}"


def _first_step_cell(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    if peer is None or peer.failure or peer.load is None or peer.first_step is None:
        return _absence(result, name)
    return f"{peer.load + peer.first_step:.2f}"


def _error_cell(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    return f"{peer.gradient_error:.0e}" if peer and peer.gradient_error is not None else _absence(result, name)


def _absence(result: WorkloadResult, name: str) -> str:
    peer = result.peers.get(name)
    return "fails" if peer and peer.failure else "–"


def _of(own: Sequence[float], other: Sequence[float]) -> Quartiles | None:
    return Quartiles.of([a / b for a, b in zip(own, other, strict=False)]) if own and other else None


def _mean(ratios: Sequence[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else ""


def _ratio(ratio: Quartiles | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else "–"


def _plain(ratio: Quartiles | None) -> str:
    return f"{ratio.median:.2f}" if ratio else "–"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
