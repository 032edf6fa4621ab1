"""Checkpoints: parameters, optimizer state and the place in the training, as one safetensors file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ..compiler.save import write_file
from ..passes.errors import InputError
from .optimizer import Optimizer
from .session import Session

_FORMAT = "onnxgrad.checkpoint/1"


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        step: optimizer steps made.
        epoch: epochs finished.
        batch: batches of the current epoch that are done.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0


def save_checkpoint(path: str | os.PathLike[str], session: Session, optimizer: Optimizer, progress: Progress) -> None:
    """Write a checkpoint, whole or not at all: a kill at any moment leaves the last complete one."""
    tensors = {f"parameters/{name}": np.ascontiguousarray(array) for name, array in session.parameters.items()}
    tensors |= {f"optimizer/{name}": array for name, array in optimizer.state().items()}
    metadata = {"format": _FORMAT, "progress": json.dumps(asdict(progress)), "optimizer": optimizer.describe()}
    write_file(Path(path), safetensors.numpy.save(tensors, metadata))


def load_checkpoint(path: str | os.PathLike[str], session: Session, optimizer: Optimizer) -> Progress:
    """Restore what `save_checkpoint` wrote into *session* and *optimizer*.

    Raises InputError if the file is no checkpoint, or that of another model or optimizer; nothing is changed then.
    """
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{os.fspath(path)} is no readable checkpoint: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{os.fspath(path)} is a safetensors file, but no checkpoint of onnxgrad")
    if metadata["optimizer"] != optimizer.describe():
        raise InputError(
            f"{os.fspath(path)} was written with {metadata['optimizer']}; this training uses {optimizer.describe()}"
        )
    parameters = _under("parameters/", tensors)
    if set(parameters) != set(session.parameters):
        different = sorted(set(parameters) ^ set(session.parameters))
        raise InputError(f"{os.fspath(path)} is a checkpoint of another model: they differ in {different[0]!r}")
    session.parameters.update(parameters)
    optimizer.load_state(_under("optimizer/", tensors))
    return Progress(**json.loads(metadata["progress"]))


def _under(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
