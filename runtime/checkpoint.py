"""Checkpoints: parameters, optimizer state and the place in the training, as one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors

from ..compiler.save import save_tensors
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
    """Write a checkpoint, whole or not at all: a kill at any moment leaves the last complete one.

    Raises Error when the disk is full or the folder cannot be written.
    """
    tensors = {f"parameters/{name}": _storable(array) for name, array in session.parameters.items()}
    tensors |= {f"optimizer/{name}": _storable(array) for name, array in optimizer.state().items()}
    metadata = {"format": _FORMAT, "progress": json.dumps(asdict(progress)), "optimizer": optimizer.describe()}
    save_tensors(Path(path), tensors, metadata)


def load_checkpoint(path: str | os.PathLike[str], session: Session, optimizer: Optimizer) -> Progress:
    """Restore what `save_checkpoint` wrote into *session* and *optimizer*.

    Raises InputError if the file is no checkpoint, or that of another model or optimizer; nothing is changed then.
    """
    name = os.fspath(path)
    try:
        with safetensors.safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"{name} is no readable checkpoint: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{name} is a safetensors file, but no checkpoint of onnxgrad")
    try:
        progress = Progress(**json.loads(metadata["progress"]))
        kind = metadata["optimizer"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The metadata of the checkpoint {name} are damaged: {error}") from None
    if kind != optimizer.describe():
        raise InputError(f"{name} was written with {kind}; this training uses {optimizer.describe()}")
    parameters = _of("parameters/", tensors, dict(session.parameters.items()))
    if set(parameters) != set(session.parameters):
        different = min(set(parameters) ^ set(session.parameters))
        raise InputError(f"{name} is a checkpoint of another model: they differ in the parameter {different!r}")
    try:
        session.parameters.check(parameters)
    except InputError as error:
        raise InputError(f"{name} is a checkpoint of another model: {error}") from None
    optimizer.load_state(_of("optimizer/", tensors, optimizer.state()))
    session.parameters.update(parameters)
    return progress


def _storable(array: np.ndarray) -> np.ndarray:
    """Types that NumPy does not have (bfloat16) are kept as float32, which holds them exactly."""
    return np.asarray(array, order="C") if array.dtype.isbuiltin == 1 else array.astype(np.float32)


def _of(prefix: str, tensors: Mapping[str, np.ndarray], like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The *tensors* under *prefix*, in the types that `_storable` took them from."""
    chosen = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
    for name, array in chosen.items():
        if name in like and like[name].dtype.isbuiltin != 1 and array.dtype == np.float32:
            chosen[name] = array.astype(like[name].dtype)
    return chosen
