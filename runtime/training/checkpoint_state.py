"""The state of a training: parameters, the optimizer's states, and properties."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ...compiler.artifacts import read_checkpoint, write_checkpoint
from ..session import Session


class Parameter:
    """One trained parameter: its value and its gradient where they lie; on the CPU views."""

    def __init__(self, name: str, state: CheckpointState) -> None:
        self.name = name
        self._state = state

    @property
    def data(self) -> np.ndarray:
        return self._state.arrays[self.name]

    @data.setter
    def data(self, value: np.ndarray) -> None:
        self._state.parameters[self.name] = value

    @property
    def grad(self) -> np.ndarray | None:
        """The accumulated gradient, None before there is a Module."""
        return None if self._state.session is None else self._state.session.grads[self.name]

    @property
    def requires_grad(self) -> bool:
        """True: parameters that do not are constants of the training model."""
        return True

    def __repr__(self) -> str:
        return f"Parameter(name={self.name}, requires_grad={self.requires_grad})"


class Parameters:
    """The parameters by name; as in onnxruntime-training, iterating gives pairs of a name and a Parameter."""

    def __init__(self, state: CheckpointState) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Parameter:
        if name not in self:
            raise KeyError(f"There is no parameter {name!r}")
        return Parameter(name, self._state)

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        """Write a parameter. Raises KeyError if there is none, and InputError for another shape or dtype."""
        if name not in self:
            raise KeyError(f"There is no parameter {name!r}")
        self._state.assign(name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._state.arrays

    def __iter__(self) -> Iterator[tuple[str, Parameter]]:
        return ((name, self[name]) for name in list(self._state.arrays))

    def __len__(self) -> int:
        return len(self._state.arrays)

    def __repr__(self) -> str:
        return repr(list(self._state.arrays))


class CheckpointState:
    """What a checkpoint file holds. A Module made of it moves the parameters into its session, where they then are.

    Attributes:
        parameters: the trained parameters.
        properties: int, float and str by name, which the file keeps.
        session: of the Module, None before there is one.
        optimizer_states: what was read, for an Optimizer to continue from.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        optimizer_states: Mapping[str, np.ndarray],
        properties: Mapping[str, int | float | str],
    ) -> None:
        self._arrays = dict(arrays)
        self.optimizer_states = optimizer_states
        self.properties = dict(properties)
        self.parameters = Parameters(self)
        self.session: Session | None = None
        self._current_states: Callable[[], Mapping[str, np.ndarray]] = lambda: self.optimizer_states

    @classmethod
    def load_checkpoint(cls, checkpoint_uri: str | os.PathLike[str]) -> CheckpointState:
        """Read what `generate_artifacts` or `save_checkpoint` wrote. Raises InputError if it is none of these."""
        return cls(*read_checkpoint(Path(checkpoint_uri)))

    @classmethod
    def save_checkpoint(
        cls, state: CheckpointState, checkpoint_uri: str | os.PathLike[str], include_optimizer_state: bool = False
    ) -> None:
        """Write *state*, whole or not at all. Raises Error when it cannot."""
        states = state._current_states() if include_optimizer_state else {}
        write_checkpoint(Path(checkpoint_uri), dict(state.arrays), states, state.properties)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The values by name."""
        return self._arrays if self.session is None else dict(self.session.parameters.items())

    def assign(self, name: str, value: np.ndarray) -> None:
        """Write the value of the parameter *name*."""
        if self.session is None:
            self._arrays[name] = np.asarray(value)
        else:
            self.session.parameters[name] = value

    def attach(self, session: Session) -> None:
        """Move the parameters into *session*. Raises InputError if they are not those of its program."""
        session.parameters.update(self._arrays)
        self.session, self._arrays = session, {}

    def follow(self, states: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Save the optimizer's states that *states* gives from now on."""
        self._current_states = states
