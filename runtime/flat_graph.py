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
    """A graph whose inputs are one segment of several flat buffers, and scalars.

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
        self._bound: dict[Segment, BoundGraph] = {}

    def on(self, segment: Segment) -> BoundGraph:
        """The graph on *segment* of each buffer, bound when that is first asked for."""
        if segment not in self._bound:
            self._bound[segment] = self._bind(segment)
        return self._bound[segment]

    def _bind(self, segment: Segment) -> BoundGraph:
        binding = self._session.io_binding()
        place = (self._device.kind, self._device.index, element_type(segment.dtype), list(segment.shape))
        for name, buffer in self._buffers.items():
            binding.bind_input(name, *place, segment.address(buffer))
        scalars = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self._scalars.items()}
        for name, scalar in scalars.items():
            binding.bind_cpu_input(name, scalar)
        for output in self._outputs:
            name = output.removesuffix(".next")
            if name in self._buffers:
                binding.bind_output(output, *place, segment.address(self._buffers[name]))
            else:
                binding.bind_output(output, "cpu")
        fresh = {
            name: index for index, name in enumerate(self._outputs) if name.removesuffix(".next") not in self._buffers
        }
        return BoundGraph(self._session, binding, scalars, fresh, copies=self._device.kind != "cpu")


@dataclass(frozen=True)
class BoundGraph:
    """A graph with everything bound that it reads and writes. Threads may run different ones of one graph at once.

    Attributes:
        scalars: the memory of each.
        fresh: the positions of those outputs that do not go into a buffer.
        copies: whether the runtime reads copies of the scalars, made when they are bound, as on a GPU.
    """

    session: ort.InferenceSession
    binding: ort.IOBinding
    scalars: Mapping[str, np.ndarray]
    fresh: Mapping[str, int]
    copies: bool

    def run(self, scalars: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Run the graph; *scalars* may have more than it takes.

        Returns:
            the outputs that do not go into a buffer.
        """
        for name, memory in self.scalars.items():
            memory.fill(scalars[name])
            if self.copies:
                self.binding.bind_cpu_input(name, memory)
        run_bound(self.session, self.binding)
        if not self.fresh:
            return {}
        values = self.binding.get_outputs()
        return {name: np.array(values[index].numpy()) for name, index in self.fresh.items()}
