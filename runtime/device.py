"""Where a session runs: ONNX Runtime's execution providers, and which of them this machine has."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
    wanted = [CUDA, CPU] if providers is None else [providers] if isinstance(providers, str) else list(providers)
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
    driver = _cuda_driver()
    count = ctypes.c_int(0)
    return count.value if driver is not None and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def describe_device(device: Device) -> str:
    """The model of the processor or GPU, as far as the system tells it."""
    if device.kind == "cuda":
        driver, handle, name = _cuda_driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
        if driver is not None and driver.cuDeviceGet(ctypes.byref(handle), device.index) == 0:
            driver.cuDeviceGetName(name, len(name), handle)
        return name.value.decode() or device.kind
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _cuda_driver() -> Any:
    """NVIDIA's driver library, initialized; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        return driver if driver.cuInit(0) == 0 else None
    except OSError:
        return None


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]
