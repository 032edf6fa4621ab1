"""The driver's end of a peer's process."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any

from .files import WorkloadFiles
from .peers import PeerEntry

ROOT = Path(__file__).parents[1]


class PeerError(Exception):
    """What a peer said when it failed, in one line."""


class PeerProcess:
    """One peer with one workload, alive until `close`."""

    def __init__(self, entry: PeerEntry, files: WorkloadFiles, *, threads: int, environments: Path, log: Path) -> None:
        """Start it.

        Args:
            threads: for one operator.
            environments: the folder with the peers' environments.
            log: a file for what the peer's libraries print.

        Raises PeerError if its environment is not there.
        """
        python = Path(sys.executable)
        if entry.environment is not None:
            python = environments / entry.environment / "bin" / "python"
        if not python.exists():
            raise PeerError(f"not installed: there is no {python.parent.parent}")
        module = f"benchmarks.peers.{entry.module}"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python.absolute(), "-m", "benchmarks.peers.worker", module, files.folder.absolute(), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""},
            )

    def ask(self, request: str, *, timeout: float, **arguments: Any) -> Any:
        """The answer to a request (a method of `benchmarks.peers.worker.Worker`).

        Raises PeerError if the peer fails, ends, or does not answer in *timeout* seconds; it is closed then.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"request": request, **arguments}).encode() + b"\n")
            process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                answered = selector.select(timeout)
            line = process.stdout.readline() if answered else b""
        except BrokenPipeError:
            answered, line = [], b""
        if not line:
            self.close()
            if answered:
                raise PeerError(f"the process ended with code {process.returncode} during {request}")
            raise PeerError(f"no answer to {request} in {timeout:.0f} s")
        answer = json.loads(line)
        if "error" in answer:
            self.close()
            raise PeerError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
