"""The optimizer model, run on a Module's parameters where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from ...compiler.load import load_model
from ...compiler.update_models import updates_in_place
from ...passes.errors import InputError
from ..buffers import Buffers, Layout
from ..executor import create_session, element_type, run_bound
from .module import Module


class Optimizer:
    """`onnxruntime.training.api.Optimizer`: the optimizer model that `generate_artifacts` wrote.

    It continues from the optimizer's states in the module's checkpoint, if there are any. The learning rate is 0.001 at
    first.
    """

    def __init__(self, optimizer_uri: str | os.PathLike[str], module: Module) -> None:
        """Load the model. Raises InputError if it is not one for the parameters of *module*."""
        model = load_model(optimizer_uri).model
        session = module.session
        self._rate, self._count = 0.001, 0
        self._scalars = [name for name in ("learning_rate", "step") if _named(model, name)]
        owned = {name: (session.parameters, name) for name in session.parameters}
        owned |= {f"{name}.grad": (session.grads, name) for name in session.grads}
        states = [v for v in model.graph.inputs if v.name not in owned and v.name not in self._scalars]
        described = [(str(v.name), v.dtype.numpy().name, _sizes(v)) for v in states if v.dtype is not None]
        self._states = Buffers(Layout.of([described])[0], session.device)
        owned |= {name: (self._states, name) for name in self._states}
        missing = [v.name for v in model.graph.outputs if str(v.name).removesuffix(".next") not in owned]
        unstepped = [name for name in session.parameters if not _named(model, name)]
        if missing or unstepped or not updates_in_place(model):
            raise InputError(f"{os.fspath(optimizer_uri)} is no optimizer model for the parameters of this module")
        self._session = create_session(model, session.providers, session.options)
        self._binding = self._session.io_binding()
        for value in (*model.graph.inputs, *model.graph.outputs):
            if value.name in self._scalars or value.dtype is None:
                continue
            buffers, name = owned[str(value.name).removesuffix(".next") if value.is_graph_output() else str(value.name)]
            bind: Any = self._binding.bind_output if value.is_graph_output() else self._binding.bind_input
            element, device = element_type(value.dtype.numpy().name), session.device
            bind(value.name, device.kind, device.index, element, list(_sizes(value)), buffers.address(name))
        self._owners = (session.parameters, session.grads)
        if module.state.optimizer_states:
            self._load(module.state.optimizer_states)
        module.state.follow(self._state)

    def step(self) -> None:
        """Update the parameters from the gradients."""
        self._count += 1
        scalars = {"learning_rate": np.array([self._rate], np.float32), "step": np.array([self._count], np.int64)}
        for name in self._scalars:
            self._binding.bind_cpu_input(name, scalars[name])
        run_bound(self._session, self._binding)

    def set_learning_rate(self, learning_rate: float) -> None:
        """The learning rate from the next step on."""
        self._rate = learning_rate

    def get_learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self._rate

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self._count

    def _state(self) -> Mapping[str, np.ndarray]:
        count, rate = np.array(self._count, np.int64), np.array(self._rate, np.float64)
        return {"step": count, "learning_rate": rate, **{f"state/{name}": a for name, a in self._states.items()}}

    def _load(self, states: Mapping[str, np.ndarray]) -> None:
        arrays = {n.removeprefix("state/"): array for n, array in states.items() if n.startswith("state/")}
        if set(arrays) != set(self._states) or not {"step", "learning_rate"} <= set(states):
            raise InputError("The checkpoint's optimizer states are those of another optimizer")
        self._states.update(arrays)
        self._count, self._rate = int(states["step"]), float(states["learning_rate"])


def _named(model: ir.Model, name: str) -> bool:
    return any(value.name == name for value in model.graph.inputs)


def _sizes(value: ir.Value) -> tuple[int, ...]:
    if value.shape is None or not value.shape.is_static():
        raise InputError(f"{value.name!r} of the optimizer model has no fixed shape")
    return tuple(int(size) for size in value.shape.numpy())
