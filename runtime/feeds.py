"""What a caller feeds: arrays checked against the signature before they reach the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from ..compiler.parameters import nearest
from ..compiler.signature import Port
from ..passes.errors import InputError
from .buffers import np_dtype

Array = Any
"""A NumPy array, an OrtValue, or anything with `__dlpack__` (a PyTorch tensor, a JAX array)."""

_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}


class FeedCheck:
    """`check_feeds` for one graph, which lets arrays of the dtypes and shapes of the last call pass at once."""

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self._ports = ports
        self._fitting: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}

    def __call__(self, arrays: Mapping[str, Array]) -> Mapping[str, np.ndarray | ort.OrtValue]:
        """As `check_feeds`, which it calls for anything but plain arrays that it has seen the like of."""
        fitting = self._fitting
        if fitting and len(arrays) == len(fitting):
            for name, array in arrays.items():
                if type(array) is not np.ndarray or name not in fitting:
                    break
                dtype, shape = fitting[name]
                if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
                    break
            else:
                return arrays
        feeds = check_feeds(self._ports, arrays)
        plain = {
            name: (array.dtype, array.shape)
            for name, array in feeds.items()
            if isinstance(array, np.ndarray) and array.dtype.kind != "O"
        }
        self._fitting = plain if len(plain) == len(feeds) else {}
        return feeds


def check_feeds(ports: Mapping[str, Port], arrays: Mapping[str, Array]) -> dict[str, np.ndarray | ort.OrtValue]:
    """Bring *arrays* into a form that can be bound, and hold them against *ports*, given by name.

    Raises InputError for a name that is missing or unknown, a dtype that differs, a shape that does not fit, or
    two inputs that give one symbolic dim two sizes.
    """
    for name in arrays:
        if name not in ports:
            raise InputError(f"There is no input {name!r}{nearest(name, ports) or _offer(ports)}")
    missing = [name for name, port in ports.items() if name not in arrays and not port.optional]
    if any(ports[name].role == "residual" for name in missing):
        raise InputError(
            "This is the backward model of a split program, which takes residuals from the forward model; "
            f"{missing[0]!r} is missing. Load both (SplitProgram.load), or compile without `split`"
        )
    if missing:
        raise InputError(f"Missing input{'s' * (len(missing) > 1)}: {', '.join(_describe(ports[n]) for n in missing)}")
    sizes: dict[str, tuple[int, str]] = {}
    feeds = {}
    for name, array in arrays.items():
        feeds[name] = _as_bindable(array, name)
        _check(ports[name], feeds[name], sizes)
    return feeds


def dtype_of(array: np.ndarray | ort.OrtValue) -> str:
    """The signature's name of the element type of *array*."""
    if isinstance(array, np.ndarray):
        text = array.dtype.kind in "US" or (
            array.dtype.kind == "O" and all(isinstance(each, str) for each in array.flat)
        )
        return "str" if text else array.dtype.name
    kind = array.data_type()
    return _ORT_TYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")"))


def to_numpy(array: Array) -> np.ndarray:
    """*array* in the host's memory."""
    return array.numpy() if isinstance(array, ort.OrtValue) else np.asarray(array)


def _as_bindable(array: Array, name: str) -> np.ndarray | ort.OrtValue:
    if isinstance(array, np.ndarray) and array.flags.c_contiguous and array.dtype.isnative:
        return array
    if isinstance(array, ort.OrtValue):
        return array
    if isinstance(array, np.ndarray | np.generic | int | float | bool | list | tuple):
        try:
            own = np.asarray(array, order="C")
        except ValueError as error:
            raise InputError(f"Input {name!r} is no array: {error}") from None
        return own if own.dtype.isnative else own.astype(own.dtype.newbyteorder("="))
    if hasattr(array, "__dlpack__"):
        try:
            return np.asarray(np.from_dlpack(array), order="C")
        except (BufferError, RuntimeError, TypeError):
            return _from_other_device(array, name)
    raise InputError(f"Input {name!r} is a {type(array).__name__}; give a NumPy array, an OrtValue, or a DLPack tensor")


def _from_other_device(array: Array, name: str) -> ort.OrtValue:
    """View a tensor that NumPy cannot: one that lies on a GPU, or of a dtype such as bfloat16."""
    try:
        return ort.OrtValue.from_dlpack(array)
    except Exception as error:
        raise InputError(f"Input {name!r} does not give its memory away through DLPack: {error}") from error


def _check(port: Port, array: np.ndarray | ort.OrtValue, sizes: dict[str, tuple[int, str]]) -> None:
    fits = isinstance(array, np.ndarray) and array.dtype == np_dtype(port.dtype)
    if not fits and (dtype := dtype_of(array)) != port.dtype:
        fix = f"convert it with .astype({port.dtype!r})" if isinstance(array, np.ndarray) else "convert it"
        raise InputError(f"Input {port.name!r} is {dtype}, but the graph takes {port.dtype}; {fix}")
    shape = tuple(array.shape() if isinstance(array, ort.OrtValue) else array.shape)
    if port.shape is None or port.shape == shape:
        return
    if len(shape) != len(port.shape):
        raise InputError(f"Input {port.name!r} has shape {list(shape)}, but the graph takes {_describe(port)}")
    for axis, (size, expected) in enumerate(zip(shape, port.shape, strict=True)):
        if isinstance(expected, int) and size != expected:
            raise InputError(
                f"Input {port.name!r} has shape {list(shape)}, but the graph takes {_describe(port)}: "
                f"axis {axis} is {size}, not {expected}"
            )
        if isinstance(expected, str) and expected.isidentifier():
            first, owner = sizes.setdefault(expected, (size, port.name))
            if first != size:
                raise InputError(
                    f"Inputs {owner!r} and {port.name!r} do not fit together: {expected!r} is {first} in one and "
                    f"{size} in the other"
                )


def _describe(port: Port) -> str:
    shape = "" if port.shape is None else "[" + ", ".join("?" if d is None else str(d) for d in port.shape) + "]"
    return f"{port.name!r} ({port.dtype}{shape})"


def _offer(ports: Mapping[str, Port]) -> str:
    return f"; the graph takes {', '.join(_describe(port) for port in ports.values())}"


__all__ = ["Array", "check_feeds", "dtype_of", "np_dtype", "to_numpy"]
