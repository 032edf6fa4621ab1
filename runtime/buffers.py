"""Flat buffers: all tensors of one dtype lie in one piece of device memory, each at its offset.

So zero_grad is one fill, a clip one norm, and an optimizer step one chain over one array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
import onnxruntime as ort

from ..passes.errors import InputError
from .device import Device

_ALIGNMENT = 64
"""Bytes; the alignment that ONNX Runtime's own allocator gives (one cache line, one AVX-512 register)."""


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies: in the flat buffer of its dtype, at an offset in elements."""

    dtype: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Layout:
    """The slots of named tensors, and the length in elements of the flat buffer of each dtype."""

    slots: Mapping[str, Slot]
    lengths: Mapping[str, int]

    @classmethod
    def of(
        cls, groups: Sequence[Sequence[tuple[str, str, tuple[int, ...]]]], *, block: int = 1
    ) -> tuple[Layout, list[dict[str, range]]]:
        """Lay out tensors (name, dtype, shape) group by group, each group padded to a multiple of *block* elements.

        Returns:
            the layout, and for each group the range of elements it occupies in each dtype's buffer.
        """
        slots: dict[str, Slot] = {}
        lengths: dict[str, int] = {}
        ranges = []
        for group in groups:
            starts = dict(lengths)
            for name, dtype, shape in group:
                step = max(1, _ALIGNMENT // np_dtype(dtype).itemsize)
                slot = Slot(dtype, lengths.get(dtype, 0), shape)
                slots[name] = slot
                lengths[dtype] = slot.offset + -(-slot.size // step) * step
            for dtype, length in lengths.items():
                start = starts.get(dtype, 0)
                lengths[dtype] = start + -(-(length - start) // block) * block
            ranges.append(
                {
                    dtype: range(starts.get(dtype, 0), end)
                    for dtype, end in lengths.items()
                    if end > starts.get(dtype, 0)
                }
            )
        return cls(slots, lengths), ranges


class Buffers:
    """Named tensors in flat buffers on *device*, zero at first.

    `buffers[name]` reads one (on the CPU a view, elsewhere a copy), `buffers[name] = array` writes one.
    """

    def __init__(self, layout: Layout, device: Device) -> None:
        self.layout = layout
        self.device = device
        zeros = {dtype: _aligned_zeros(length, dtype) for dtype, length in layout.lengths.items()}
        on_host = device.kind == "cpu"
        # On the CPU the arrays are the memory, so that a view of them keeps it alive.
        self._host = zeros if on_host else {}
        self._remote = {} if on_host else {dtype: _copy_to(device, array) for dtype, array in zeros.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.slots)

    def __len__(self) -> int:
        return len(self.layout.slots)

    def __contains__(self, name: object) -> bool:
        return name in self.layout.slots

    def keys(self) -> Sequence[str]:
        return list(self.layout.slots)

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        flat = {dtype: self.read_flat(dtype) for dtype in self.layout.lengths}
        return ((name, _view(flat[slot.dtype], slot)) for name, slot in self.layout.slots.items())

    def __getitem__(self, name: str) -> np.ndarray:
        slot = self._slot(name)
        return _view(self.read_flat(slot.dtype), slot)

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self.update({name: array})

    def update(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write several tensors, one transfer a dtype. Raises InputError as `check` does, and writes nothing then."""
        self.check(arrays)
        for dtype in {self.layout.slots[name].dtype for name in arrays}:
            flat = self.read_flat(dtype)
            for name, array in arrays.items():
                slot = self.layout.slots[name]
                if slot.dtype == dtype:
                    flat[slot.offset : slot.offset + slot.size] = np.ascontiguousarray(array).reshape(-1)
            self.write_flat(dtype, flat)

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raise InputError if there is no tensor of a name in *arrays*, or one of another shape or dtype."""
        for name, array in arrays.items():
            slot = self._slot(name)
            if tuple(array.shape) != slot.shape or array.dtype != np_dtype(slot.dtype):
                raise InputError(f"{name!r} is {slot.dtype}{list(slot.shape)}, not {array.dtype}{list(array.shape)}")

    def fill_zero(self) -> None:
        for dtype, length in self.layout.lengths.items():
            if dtype in self._host:
                self._host[dtype].view(np.uint8).fill(0)  # bytes take half the time of floats
            else:
                self.write_flat(dtype, np.zeros(length, np_dtype(dtype)))

    def read_flat(self, dtype: str) -> np.ndarray:
        """The whole flat buffer of *dtype*: on the CPU the memory itself, elsewhere a copy."""
        return self._host[dtype] if dtype in self._host else _as(self._remote[dtype].numpy(), dtype)

    def write_flat(self, dtype: str, array: np.ndarray) -> None:
        """Replace the contents of the flat buffer of *dtype*."""
        if dtype not in self._host:
            self._remote[dtype].update_inplace(_as_bits(array))
        elif array is not self._host[dtype]:
            self._host[dtype][:] = array

    def address(self, name: str) -> int:
        """The device address of the tensor *name*."""
        slot = self._slot(name)
        return self.flat_address(slot.dtype) + slot.offset * np_dtype(slot.dtype).itemsize

    def flat_address(self, dtype: str) -> int:
        """The device address of the flat buffer of *dtype*."""
        return int(self._host[dtype].ctypes.data if dtype in self._host else self._remote[dtype].data_ptr())

    def _slot(self, name: str) -> Slot:
        if name not in self.layout.slots:
            raise InputError(f"There is no tensor {name!r}; there are {', '.join(list(self.layout.slots)[:8])}, …")
        return self.layout.slots[name]


def _view(flat: np.ndarray, slot: Slot) -> np.ndarray:
    return flat[slot.offset : slot.offset + slot.size].reshape(slot.shape)


@cache
def np_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a signature's dtype name, ml_dtypes' included."""
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def _aligned_zeros(length: int, dtype: str) -> np.ndarray:
    itemsize = np_dtype(dtype).itemsize
    memory = np.zeros(length * itemsize + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + length * itemsize].view(np_dtype(dtype))


def _copy_to(device: Device, array: np.ndarray) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(_as_bits(array), device.kind, device.index)


def _as_bits(array: np.ndarray) -> np.ndarray:
    """View types that NumPy does not have as the integers of the same width; memory is all that counts here."""
    native = array.dtype.kind in "fiub"
    return array if native else array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    return array if array.dtype == np_dtype(dtype) else array.view(np_dtype(dtype))
