"""Reading of data files: .npz and .safetensors, whose keys are the names of the graph's inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..passes.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ..compiler.signature import Port


def load_arrays(path: Path, ports: Sequence[Port]) -> dict[str, np.ndarray]:
    """The arrays of *path* for *ports*, by their names.

    Raises InputError if the file cannot be read, lacks one that is required, or has no samples.
    """
    arrays = _read(path)
    missing = [port.name for port in ports if port.name not in arrays and not port.optional]
    if missing:
        raise InputError(
            f"{path} has no array {missing[0]!r}; it has {', '.join(sorted(arrays))}. "
            "Its keys must be the names of the graph's inputs"
        )
    for port in ports:
        shape = arrays[port.name].shape if port.name in arrays else ()
        if shape and shape[0] == 0 and not (port.shape and port.shape[0] == 0):
            raise InputError(f"There are no samples in {path}: {port.name!r} has shape {list(shape)}")
    return {port.name: arrays[port.name] for port in ports if port.name in arrays}


def _read(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    if not path.exists():
        raise InputError(f"There is no file {path}")
    if path.suffix == ".npz":
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is no readable .npz file: it is no archive such as numpy.savez writes")
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except Exception as error:
            raise InputError(f"{path} is no readable .npz file: {error}") from None
    if path.suffix == ".safetensors":
        import safetensors.numpy

        try:
            return dict(safetensors.numpy.load_file(path))
        except Exception as error:
            raise InputError(f"{path} is no readable .safetensors file: {error}") from None
    raise InputError(f"{path}: data is read from .npz or .safetensors files")
