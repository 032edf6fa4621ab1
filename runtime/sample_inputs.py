"""Random inputs that fit a program, where no data is at hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..compiler.dims import check_sizes
from ..compiler.program import Program
from ..passes.errors import InputError
from ..passes.index_bounds import find_index_bounds
from .buffers import np_dtype
from .session import Session


def sample_inputs(program: Program, sizes: Mapping[str, int] | None = None, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays for the inputs and labels of *program*.

    Floats are normal. Integers that the graph uses as indices of an axis of known size (tokens, class labels) are
    valid ones; others are 0 or 1.

    Args:
        sizes: of symbolic dims; 2 where none is given.

    Raises InputError for an input of unknown rank or of strings, and for a size of a dim that no input has.
    """
    ports = list(program.signature.inputs_of("input", "label"))
    dims = {dim for port in ports for dim in port.shape or () if isinstance(dim, str)}
    check_sizes("sizes", sizes or {}, dims)
    random = np.random.default_rng(seed)
    bounds = find_index_bounds(program.model.graph)
    arrays = {}
    for port in ports:
        if port.shape is None or port.dtype == "str":
            raise InputError(f"No sample can be made for input {port.name!r}; give data")
        shape = [dim if isinstance(dim, int) else (sizes or {}).get(dim or "", 2) for dim in port.shape]
        dtype = np_dtype(port.dtype)
        floats = dtype.kind == "f" or port.dtype == "bfloat16"
        sample = random.standard_normal(shape) if floats else random.integers(0, bounds.get(port.name, 2), shape)
        arrays[port.name] = sample.astype(dtype)
    return arrays


def sample_seeds(session: Session, inputs: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random normal cotangents for the differentiated outputs of *session*'s program at *inputs*; none for a loss."""
    ports = [port for port in session.program.signature.inputs_of("grad_output") if not port.optional]
    if not ports:
        return {}
    outputs = session.run(inputs, loss=session.program.signature.loss is not None)
    random = np.random.default_rng(seed)
    return {
        str(port.of): random.standard_normal(outputs[str(port.of)].shape).astype(np_dtype(port.dtype)) for port in ports
    }
