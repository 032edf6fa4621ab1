"""Where a session runs: ONNX Runtime's execution providers, and which of them this machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from ..passes.errors import InputError

Provider = str | tuple[str, dict[str, Any]]
"""An execution provider as ONNX Runtime takes it: its name, or its name and options."""

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Device:
    """The memory that holds parameters, gradients and optimizer states."""

    kind: str
    index: int = 0


def resolve_providers(providers: Sequence[Provider] | None) -> list[Provider]:
    """The providers to use, in order of preference: those of *providers* that this machine can run.

    Without *providers*: CUDA where the runtime and a GPU are there, then the CPU. A provider that the installed
    runtime does not have, or CUDA on a machine without a GPU, is passed over quietly: the CPU takes its place.

    Raises InputError for something that no ONNX Runtime knows as a provider.
    """
    wanted = [CUDA, CPU] if providers is None else list(providers)
    known, present = set(ort.get_all_providers()), set(ort.get_available_providers())
    usable: list[Provider] = []
    for provider in wanted:
        name = _name(provider)
        if name not in known:
            raise InputError(f"{name!r} is no execution provider; ONNX Runtime has {', '.join(sorted(known))}")
        if name in present and (name != CUDA or count_cuda_devices() > 0):
            usable.append(provider)
    if CPU not in map(_name, usable):
        usable.append(CPU)
    return usable


def device_of(providers: Sequence[Provider]) -> Device:
    """The device of the first of *providers*."""
    first = providers[0]
    if _name(first) != CUDA:
        return Device("cpu")
    options = first[1] if isinstance(first, tuple) else {}
    return Device("cuda", int(options.get("device_id", 0)))


def count_cuda_devices() -> int:
    """How many GPUs the CUDA driver sees; 0 without a driver. (onnxruntime-gpu is also installed without one.)"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
    except OSError:
        return 0
    return count.value


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]
