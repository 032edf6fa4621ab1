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
    """Runs a graph whose inputs are one segment of several flat buffers, and scalars. Threads may share it.

    An output `<name>.next` is written over the input `<name>`, for which there must be a proof (`may_alias`).

    Args:
        buffers: by the name of the input; they stay where they are.
    """

    def __init__(
        self,
        model: ir.Model,
        buffers: Mapping[str, Buffers],
        *,
        providers: Sequence[Provider],
        options: ort.SessionOptions | None,
        device: Device,
    ) -> None:
        self._device = device
        self._buffers = buffers
        self._session = create_session(model, providers, options)
        self._scalars = {
            str(value.name): (value.shape.numpy(), value.dtype.numpy())
            for value in model.graph.inputs
            if value.name not in buffers and value.shape is not None and value.dtype is not None
        }
        self._outputs = [str(value.name) for value in model.graph.outputs]
        self._bindings: dict[Segment, ort.IOBinding] = {}

    def run(self, segment: Segment, scalars: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Run the graph on *segment* of each buffer; *scalars* may have more than the graph takes.

        Returns:
            the outputs that do not go into a buffer.
        """
        if segment not in self._bindings:
            self._bindings[segment] = self._bind(segment)
        binding = self._bindings[segment]
        for name, (shape, dtype) in self._scalars.items():
            binding.bind_cpu_input(name, np.full(shape, scalars[name], dtype))
        run_bound(self._session, binding)
        fresh = [name for name in self._outputs if name.removesuffix(".next") not in self._buffers]
        values = dict(zip(self._outputs, binding.get_outputs(), strict=True)) if fresh else {}
        return {name: np.array(values[name].numpy()) for name in fresh}

    def _bind(self, segment: Segment) -> ort.IOBinding:
        """Bind the inputs and outputs that stay where they are."""
        binding = self._session.io_binding()
        place = (self._device.kind, self._device.index, element_type(segment.dtype), list(segment.shape))
        for name, buffer in self._buffers.items():
            binding.bind_input(name, *place, segment.address(buffer))
        for output in self._outputs:
            name = output.removesuffix(".next")
            if name in self._buffers:
                binding.bind_output(output, *place, segment.address(self._buffers[name]))
            else:
                binding.bind_output(output, "cpu")
        return binding
