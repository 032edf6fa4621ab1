"""The signature: which input and output of a joint graph plays which role, kept as JSON in the model's metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, get_args

from ..passes.errors import InvalidModelError

SIGNATURE_KEY = "onnxgrad.signature"
SIGNATURE_VERSION = 1

InputRole = Literal["input", "label", "parameter", "grad_output", "grad_buffer", "state", "residual"]
OutputRole = Literal["output", "loss", "gradient", "grad_buffer", "state", "residual"]
Role = InputRole | OutputRole
Mode = Literal["grad", "accumulate"]


@dataclass(frozen=True)
class Port:
    """One input or output of a joint graph.

    Attributes:
        name: its name in the graph.
        role: what it is for.
        dtype: the NumPy name of its element type (`bfloat16` and its kin by their ml_dtypes names).
        shape: sizes; symbolic ones by name, unknown ones None; the whole None if even the rank is unknown.
        of: the primal that a gradient, a seed or a buffer belongs to.
        partner: for a buffer or state, the port on the other side that holds its next (or previous) value.
        in_place: whether the two may share one memory; proven for the graph (only for buffers and states).
        optional: an input with a default value.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[int | str | None, ...] | None
    of: str | None = None
    partner: str | None = None
    in_place: bool = False
    optional: bool = False

    @cached_property
    def static_shape(self) -> tuple[int, ...] | None:
        """The shape if every size is known, else None."""
        sizes = tuple(dim for dim in self.shape or () if isinstance(dim, int))
        return sizes if self.shape is not None and len(sizes) == len(self.shape) else None


@dataclass(frozen=True)
class Signature:
    """The roles of a joint graph's inputs and outputs."""

    mode: Mode
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def inputs_of(self, *roles: InputRole) -> Iterator[Port]:
        return (port for port in self.inputs if port.role in roles)

    def outputs_of(self, *roles: OutputRole) -> Iterator[Port]:
        return (port for port in self.outputs if port.role in roles)

    @property
    def loss(self) -> str | None:
        """The name of the loss output, None if there is none."""
        return next((port.name for port in self.outputs_of("loss")), None)

    def to_json(self) -> str:
        data = {"version": SIGNATURE_VERSION, "mode": self.mode, "inputs": self.inputs, "outputs": self.outputs}
        return json.dumps(data, separators=(",", ":"), default=asdict)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Parse what `to_json` wrote. Raises InvalidModelError for anything else."""
        try:
            data = json.loads(text)
            version = data["version"]
            if version != SIGNATURE_VERSION:
                raise InvalidModelError(
                    f"The joint graph was written with signature version {version}; this onnxgrad reads version "
                    f"{SIGNATURE_VERSION}. Compile the forward model again."
                )
            if data["mode"] not in get_args(Mode):
                raise ValueError(f"unknown mode {data['mode']!r}")
            return cls(
                mode=data["mode"],
                inputs=tuple(_port(port) for port in data["inputs"]),
                outputs=tuple(_port(port) for port in data["outputs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(f"The joint graph's signature is damaged: {error}") from error


def _port(data: dict[str, object]) -> Port:
    shape = data["shape"]
    if isinstance(shape, list):
        data = {**data, "shape": tuple(shape)}
    return Port(**data)  # type: ignore[arg-type]
