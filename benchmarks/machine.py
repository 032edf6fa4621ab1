"""What the report says about the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory, system."""
    return {
        "processor": _first_value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": f"{os.cpu_count()}",
        "vector instructions": _vectors(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def load_average() -> float:
    """Runnable processes over the last minute: what else the machine was doing when the run began."""
    return os.getloadavg()[0]


def _vectors() -> str:
    flags = (_first_value(Path("/proc/cpuinfo"), "flags") or "").split()
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
    return ", ".join(flag for flag in known if flag in flags) or "not known"


def _memory() -> str:
    total = _first_value(Path("/proc/meminfo"), "MemTotal")
    return f"{int(total.split()[0]) / 2**20:.0f} GiB" if total else "not known"


def _first_value(path: Path, key: str) -> str | None:
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
