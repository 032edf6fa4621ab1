"""Writing of files: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import safetensors
import safetensors.numpy

from ..passes.errors import Error
from .collection import without_garbage_collection
from .write import write_protobuf

EXTERNAL_DATA_THRESHOLD = 1 << 30
"""Models whose weights take more bytes than this keep them in a second file (protobuf ends at 2 GB)."""


@without_garbage_collection()
def save_model(model: ir.Model, path: Path) -> None:
    """Write *model* to *path*; large weights go to `<name>.data` beside it. Raises Error when it cannot."""
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    with staging_folder(path) as folder:
        staged = folder / path.name
        if weights > EXTERNAL_DATA_THRESHOLD:
            ir.save(model, staged, external_data=f"{path.name}.data")
        else:
            with staged.open("wb") as file:
                write_protobuf(model, file)


def save_proto(proto: onnx.ModelProto, path: Path) -> None:
    """As `save_model`, for a model that must stay byte for byte what it is."""
    if proto.ByteSize() > EXTERNAL_DATA_THRESHOLD:
        save_model(ir.from_proto(proto), path)
    else:
        write_file(path, proto.SerializeToString())


def write_file(path: Path, data: bytes) -> None:
    """Write *data* to *path*, whole or not at all. Raises Error when it cannot."""
    with staging_folder(path) as folder:
        (folder / path.name).write_bytes(data)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises Error when it cannot."""
    with staging_folder(path) as folder:
        file = folder / path.name
        file.touch()
        mode = file.stat().st_mode
        try:
            safetensors.numpy.save_file(dict(tensors), file, dict(metadata))
        except safetensors.SafetensorError as error:
            raise Error(f"{path} cannot be written: {error}") from error
        file.chmod(mode)  # safetensors would let nobody but the owner read it


def check_writable(path: Path) -> None:
    """Raise Error where no file can be written to *path*, before work is done for it."""
    if not path.parent.is_dir():
        raise Error(f"{path} cannot be written: there is no folder {path.parent}")
    if not path.name or (path.exists() and not path.is_file()):
        raise Error(f"{path} cannot be written: it is no regular file")


@contextlib.contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A folder on the same disk whose files move to the folder of *path* when the block ends without an error.

    The file *path* itself moves last, so that it never refers to data that is not there yet.
    """
    check_writable(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True) as name:
            staging = Path(name)
            yield staging
            for staged in sorted(staging.iterdir(), key=lambda file: file.name == path.name):
                with staged.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(staged, path.parent / staged.name)
    except OSError as error:
        raise Error(f"{path} cannot be written: {error.strerror or error}") from error
