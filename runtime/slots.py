"""Memory for what a graph takes and gives, at the same addresses in every run, as a captured CUDA graph needs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnxruntime as ort

from ..compiler.signature import Port
from ..passes.errors import InputError
from .buffers import np_dtype
from .device import CUDA, Device, Provider


class Slots:
    """One OrtValue for each input and output, made when it is first bound, and written over from run to run."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._slots: dict[str, ort.OrtValue] = {}

    def bind_input(self, bound: ort.IOBinding, name: str, array: np.ndarray | ort.OrtValue) -> None:
        """Copy *array*, of the shape of the graph's input *name*, into its slot and bind that."""
        array = array.numpy() if isinstance(array, ort.OrtValue) else array
        if name in self._slots:
            self._slots[name].update_inplace(array)
        else:
            # A copy: on the CPU the OrtValue would be a view of the caller's array.
            self._slots[name] = ort.OrtValue.ortvalue_from_shape_and_type(
                list(array.shape), array.dtype.type, self._device.kind, self._device.index
            )
            self._slots[name].update_inplace(array)
        bound.bind_ortvalue_input(name, self._slots[name])

    def bind_output(self, bound: ort.IOBinding, port: Port) -> None:
        """Let the graph write the output into its slot."""
        if port.name not in self._slots:
            shape = list(port.static_shape or ())
            self._slots[port.name] = ort.OrtValue.ortvalue_from_shape_and_type(
                shape, np_dtype(port.dtype).type, self._device.kind, self._device.index
            )
        bound.bind_ortvalue_output(port.name, self._slots[port.name])

    def copy_of(self, name: str) -> np.ndarray:
        """What the last run wrote, in the host's memory."""
        return np.array(self._slots[name].numpy())


def check_fixed(ports: Iterable[Port]) -> None:
    """Raise InputError unless everything that a graph takes and gives has a fixed shape."""
    unknown = [port for port in ports if port.static_shape is None]
    if unknown:
        dims = [str(dim) for port in unknown for dim in port.shape or () if not isinstance(dim, int)]
        fix = f"free_dims={{{dims[0]!r}: 32}}" if dims else "free_dims"
        raise InputError(
            f"cuda_graph=True needs fixed shapes, but that of {unknown[0].name!r} is symbolic; compile with {fix}"
        )


def capturing(providers: Iterable[Provider]) -> list[Provider]:
    """*providers*, with the CUDA provider told to capture its work as a graph and to replay that.

    (ONNX Runtime documentation, "CUDA Execution Provider", `enable_cuda_graph`.)
    """
    captured: list[Provider] = []
    for provider in providers:
        name, options = (provider, {}) if isinstance(provider, str) else provider
        captured.append((name, {**options, "enable_cuda_graph": "1"}) if name == CUDA else provider)
    return captured
