"""The process of one peer and one workload: answers the driver's requests, one JSON object a line.

`python -m benchmarks.peers.worker MODULE FOLDER THREADS`, where MODULE has a function `peer(files, threads)`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..files import WorkloadFiles
from .memory import PeakMemory
from .peer import Peer


class Worker:
    """Each public method is a request."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def load(self) -> dict[str, Any]:
        """Compile, load, and make the first steps.

        Returns:
            the seconds of each (`compile`, `load`, `first_step`); `compile_peak` and `peak`, bytes above what was there
            before while compiling and in three steps (None where the system does not tell); `operations`, `versions`.
        """
        gc.collect()
        memory = PeakMemory()
        start = perf_counter()
        self._peer.compile()
        compiled = perf_counter() - start
        compile_peak = memory.above_start()
        start = perf_counter()
        self._peer.load()
        loaded = perf_counter() - start
        self._operations = self._peer.operations()
        first, peak = 0.0, None
        if "step" in self._operations:
            gc.collect()
            memory = PeakMemory()
            start = perf_counter()
            self._operations["step"]()
            first = perf_counter() - start
            for _ in range(2):
                self._operations["step"]()
            peak = memory.above_start()
        versions = {package: metadata.version(package) for package in self._peer.packages}
        return {
            "compile": compiled,
            "load": loaded,
            "first_step": first,
            "compile_peak": compile_peak,
            "peak": peak,
            "operations": list(self._operations),
            "versions": versions,
        }

    def gradients(self, path: str) -> None:
        """Write them to *path* (.npz)."""
        np.savez(path, **{name: np.asarray(gradient) for name, gradient in self._peer.gradients().items()})

    def time(self, operation: str, seconds: float) -> float:
        """See `fastest_run`."""
        return fastest_run(self._operations[operation], seconds)


def fastest_run(run: Callable[[], object], seconds: float) -> float:
    """The duration in seconds of the fastest of the runs that fill *seconds*, after one that does not count.

    The fastest, because whatever else the machine does can only make a run slower.
    """
    run()
    durations: list[float] = []
    end = perf_counter() + seconds
    while not durations or perf_counter() < end:
        start = perf_counter()
        run()
        durations.append(perf_counter() - start)
    return min(durations)


def main(module: str, folder: str, threads: str) -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(importlib.import_module(module).peer(WorkloadFiles(Path(folder)), int(threads)))
            answer = {"result": getattr(worker, request.pop("request"))(**request)}
        except Exception as error:
            answer = {"error": _first_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
