"""The memory that a program's steps take, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..compiler.program import Program
from ..passes.errors import Error
from .device import Provider
from .executor import session_options
from .session import Session

STEPS = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class LoadedProgram:
    """What a fresh process measured of a program.

    Attributes:
        session_seconds: from the loaded file to a session whose first step can run.
        peak_bytes: the most resident memory of the steps above that of the session before them; None on a system
            that does not tell.
    """

    session_seconds: float
    peak_bytes: int | None


def measure_in_fresh_process(
    path: str | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    grad_outputs: Mapping[str, np.ndarray],
    *,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
) -> LoadedProgram:
    """Load the program at *path* in a new process, and run a few steps of it in its own mode.

    Raises what loading and running raise, and Error when the process dies (for lack of memory, say).
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, path, inputs, grad_outputs, providers, threads).result()
        except BrokenProcessPool as error:
            raise Error("The process that measures memory died; perhaps there is too little of it") from error


def _measure(
    path: str | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    grad_outputs: Mapping[str, np.ndarray],
    providers: Sequence[Provider] | None,
    threads: int | None,
) -> LoadedProgram:
    program = Program.load(path)
    start = time.perf_counter()
    session = Session(program, providers=providers, options=session_options(threads, program.model.graph))
    session.executor(program.signature.mode)
    seconds = time.perf_counter() - start
    try:
        _RESET.write_text("5")  # starts the peak anew, at the memory that is resident now
        loaded = _peak()
    except OSError:
        return LoadedProgram(seconds, None)
    for _ in range(STEPS):
        step(session, inputs, grad_outputs)
    return LoadedProgram(seconds, _peak() - loaded)


def step(session: Session, inputs: Mapping[str, np.ndarray], grad_outputs: Mapping[str, np.ndarray]) -> None:
    """One forward and backward run in the mode that the program was compiled for."""
    if session.program.signature.mode == "accumulate":
        session.backward(inputs, grad_outputs)
    else:
        session.value_and_grad(inputs, grad_outputs)


def _peak() -> int:
    """The peak of the resident memory in bytes."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no VmHWM")
    return 1024 * int(found[1])
