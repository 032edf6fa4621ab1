"""The peak of a process's resident memory, as Linux counts it."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Watches from its making on. Memory that was freed before but not given back does not hide what is used now."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self._start: int | None = None
        with contextlib.suppress(OSError):
            # Sets the peak back to what is resident now: proc(5).
            _CLEAR.write_text("5")
            self._start = _resident("VmRSS")

    def above_start(self) -> int | None:
        """The peak since then above what was resident then, in bytes; None where the system does not tell."""
        if self._start is None:
            return None
        return _resident("VmHWM") - self._start


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
