"""One workload with all its peers: started one by one, checked, then timed in turn, round after round."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxgrad.passes.flops import count_flops
from onnxgrad.passes.infer_shapes import InferShapes

from .files import WorkloadFiles
from .gradient_check import TOLERANCE, largest_error
from .origins import pull_back
from .peers import BASELINE, PEERS, PeerEntry
from .processes import PeerError, PeerProcess
from .results import PeerResult, WorkloadResult

_ORDER = ("gemm", "forward", "step", "train", "adamw", "adamw-fused", "backward", "bare")
_PAUSE = 0.02
"""Seconds between two peers, in which the threads of the former go to sleep."""


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: how often each peer is timed.
        seconds: of each peer's operation in each round.
        threads: of one operator.
        timeout: seconds that a peer has for compiling and the first steps.
        environments: the folder with the peers' environments.
        logs: the folder for what the peers' libraries print.
    """

    rounds: int
    seconds: float
    threads: int
    timeout: float
    environments: Path
    logs: Path


class Measurement:
    """Measures one workload. `versions` has what the peers used, by distribution."""

    def __init__(self, files: WorkloadFiles, summary: str, plan: Plan, progress: Callable[[str], None]) -> None:
        self.versions: dict[str, str] = {}
        self._files, self._plan, self._progress = files, plan, progress
        self._processes: dict[str, PeerProcess] = {}
        self._operations: dict[str, list[str]] = {}
        self._reference: dict[str, np.ndarray] = {}
        self._result = describe(files, summary)

    def run(self, peers: Sequence[str]) -> WorkloadResult:
        """Measure *peers*, and the baseline in any case. A peer that fails is in the result with its failure."""
        entries = [PEERS[name] for name in PEERS if name in peers or name == BASELINE]
        entries = [entry for entry in entries if entry.workloads is None or self._files.name in entry.workloads]
        self._result.peers = {entry.name: PeerResult() for entry in entries}
        try:
            # The baseline first: its gradients are what the others' are compared with.
            for entry in sorted(entries, key=lambda entry: entry.name != BASELINE):
                self._attempt(entry.name, lambda entry=entry: self._start(entry))
            for number in range(self._plan.rounds):
                self._round(number)
        finally:
            for process in self._processes.values():
                process.close()
        return self._result

    def _start(self, entry: PeerEntry) -> None:
        plan, name = self._plan, entry.name
        self._progress(f"{name}: compile and first steps")
        log = plan.logs / f"{self._files.name}.{name}.log"
        process = PeerProcess(entry, self._files, threads=plan.threads, environments=plan.environments, log=log)
        self._processes[name] = process
        loaded = process.ask("load", timeout=plan.timeout)
        result = self._result.peers[name]
        for field in ("compile", "compile_peak", "load", "first_step", "peak"):
            setattr(result, field, loaded[field])
        self.versions |= loaded["versions"]
        if "step" in loaded["operations"]:
            self._progress(f"{name}: check the gradients")
            self._check(name, process)
        self._operations[name] = loaded["operations"]

    def _check(self, name: str, process: PeerProcess) -> None:
        """Raises PeerError if the gradients are wrong."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gradients.npz"
            process.ask("gradients", timeout=self._plan.timeout, path=str(path))
            with np.load(path) as file:
                gradients = {key: file[key] for key in file.files}
        if name == BASELINE:
            self._reference = gradients
            return
        if not self._reference:
            raise PeerError(f"its gradients could not be checked, because {BASELINE} failed")
        origins = self._files.origins()
        if origins.keys() <= gradients.keys() and not self._reference.keys() <= gradients.keys():
            gradients = pull_back(origins, gradients, {key: g.shape for key, g in self._reference.items()})
        error, parameter = largest_error(gradients, self._reference)
        self._result.peers[name].gradient_error = error
        if not error < TOLERANCE:
            raise PeerError(f"wrong gradient: {parameter} has a relative error of {error:.1e}")

    def _round(self, number: int) -> None:
        """Time each operation of each peer once; each round begins with another peer."""
        names = [name for name in self._operations if not self._result.peers[name].failure]
        start = number % len(names) if names else 0
        for operation in _ORDER:
            for name in (*names[start:], *names[:start]):
                if operation in self._operations[name] and not self._result.peers[name].failure:
                    self._progress(f"round {number + 1} of {self._plan.rounds}: {operation}, {name}")
                    self._attempt(name, lambda name=name, operation=operation: self._time(name, operation))

    def _time(self, name: str, operation: str) -> None:
        time.sleep(_PAUSE)
        seconds = self._processes[name].ask(
            "time", timeout=self._plan.timeout, operation=operation, seconds=self._plan.seconds
        )
        self._result.peers[name].seconds.setdefault(operation, []).append(seconds)

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except PeerError as failure:
            self._result.peers[name].failure = str(failure)
            if name in self._processes:
                self._processes[name].close()


def describe(files: WorkloadFiles, summary: str) -> WorkloadResult:
    """A workload before anything of it was measured."""
    model = ir.load(files.model)
    InferShapes().call(model)
    flops = count_flops(model.graph).products
    return WorkloadResult(files.name, summary, flops, len(model.graph), files.model.stat().st_size)
