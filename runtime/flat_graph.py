"""A graph over ranges of flat buffers, which it reads and writes where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from .buffers import Buffers, np_dtype
from .device import Device, Provider
from .executor import create_session, element_type, run_bound


@dataclass(frozen=True)
class Segment:
    """A range of elements of the flat buffer of one dtype, seen in some shape."""

    dtype: str
    start: int
    shape: tuple[int, ...]

    def address(self, buffers: Buffers) -> int:
        return buffers.flat_address(self.dtype) + self.start * np_dtype(self.dtype).itemsize


class FlatGraph:
    """Runs a graph whose inputs are one segment of several flat buffers, and scalars.

    An output `<name>.next` is written over the input `<name>`, for which there must be a proof (`may_alias`).
    """

    def __init__(
        self, model: ir.Model, *, providers: Sequence[Provider], options: ort.SessionOptions | None, device: Device
    ) -> None:
        self._device = device
        self._session = create_session(model, providers, options)
        self._scalars = {
            str(value.name): value.dtype.numpy()
            for value in model.graph.inputs
            if value.shape is not None and value.dtype is not None and not len(value.shape)
        }
        self._outputs = [str(value.name) for value in model.graph.outputs]

    def run(
        self, segment: Segment, buffers: Mapping[str, Buffers], scalars: Mapping[str, float]
    ) -> dict[str, np.ndarray]:
        """Run the graph on *segment* of each of *buffers*; *scalars* may have more than the graph takes.

        Returns:
            the outputs that do not go into a buffer.
        """
        binding = self._session.io_binding()
        place = (self._device.kind, self._device.index, element_type(segment.dtype), list(segment.shape))
        for name, buffer in buffers.items():
            binding.bind_input(name, *place, segment.address(buffer))
        for name, dtype in self._scalars.items():
            binding.bind_cpu_input(name, np.array(scalars[name], dtype))
        results = []
        for output in self._outputs:
            name = output.removesuffix(".next")
            if name in buffers:
                binding.bind_output(output, *place, segment.address(buffers[name]))
            else:
                binding.bind_output(output, "cpu")
                results.append(output)
        run_bound(self._session, binding)
        values = dict(zip(self._outputs, binding.get_outputs(), strict=True))
        return {name: np.array(values[name].numpy()) for name in results}
