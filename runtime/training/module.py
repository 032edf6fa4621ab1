"""The model under training: one call computes the loss, and in training mode adds the gradients."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from ...compiler.artifacts import forward_only
from ...compiler.program import Program
from ...compiler.save import save_model
from ...passes.errors import InputError
from ..device import CPU, CUDA
from ..executor import Executor
from ..feeds import Array
from ..session import Session
from .checkpoint_state import CheckpointState


class Module:
    """`onnxruntime.training.api.Module`: the training and the eval model that `generate_artifacts` wrote.

    Attributes:
        training: whether a call trains.
        session: the training model's; its parameters are those of *state* from now on.
    """

    def __init__(
        self,
        train_model_uri: str | os.PathLike[str],
        state: CheckpointState,
        eval_model_uri: str | os.PathLike[str] | None = None,
        device: str = "cpu",
        session_options: ort.SessionOptions | None = None,
    ) -> None:
        """Load the models.

        Args:
            device: "cpu", "cuda" or "cuda:1".

        Raises InputError for a file that is no such model, or the checkpoint of another one.
        """
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda") or not (index or "0").isdecimal():
            raise InputError(f'device is "cpu", "cuda" or "cuda:<index>", not {device!r}')
        cuda = (CUDA, {"device_id": index or "0"})
        self.training = True
        self.session = Session(
            Program.load(train_model_uri), providers=[cuda, CPU] if kind == "cuda" else [CPU], options=session_options
        )
        if set(state.arrays) != set(self.session.parameters):
            different = min(set(state.arrays) ^ set(self.session.parameters))
            raise InputError(f"The checkpoint is of another model: they differ in the parameter {different!r}")
        state.attach(self.session)
        self.state = state
        self._evaluation = None if eval_model_uri is None else self._executor(Program.load(eval_model_uri))
        self._stale = False

    def _executor(self, program: Program) -> Executor:
        session = self.session
        return Executor(
            program.executable(),
            program.signature,
            providers=session.providers,
            options=session.options,
            device=session.device,
        )

    def __call__(self, *inputs: Array) -> Any:
        """The loss, or a tuple of it and the additional outputs; in training mode adds to the gradients.

        Args:
            inputs: in the order of `input_names`.
        """
        names = self.input_names()
        if len(inputs) != len(names):
            raise InputError(f"The model takes {len(names)} inputs, {', '.join(names)}, not {len(inputs)}")
        feeds = dict(zip(names, inputs, strict=True))
        if self.training:
            if self._stale:
                self.session.zero_grad()
                self._stale = False
            results = self.session.backward(feeds)
        else:
            executor = self._evaluated()
            results = executor.run(executor.check(feeds), self.session.parameters)
        outputs = tuple(results[name] for name in self.output_names())
        return outputs[0] if len(outputs) == 1 else outputs

    def train(self, mode: bool = True) -> Module:
        """Let calls train, or evaluate."""
        self.training = mode
        return self

    def eval(self) -> Module:
        """Let calls evaluate."""
        return self.train(False)

    def lazy_reset_grad(self) -> None:
        """Clear the gradients before the next call that trains."""
        self._stale = True

    def input_names(self) -> list[str]:
        """The inputs and labels, in order."""
        return [port.name for port in self._program_signature().inputs_of("input", "label")]

    def output_names(self) -> list[str]:
        """The loss and the additional outputs, in order."""
        return [port.name for port in self._program_signature().outputs_of("loss", "output")]

    def get_parameters_size(self, trainable_only: bool = True) -> int:
        """How many elements the trained parameters have; others are constants of the model."""
        return sum(array.size for _, array in self.session.parameters.items())

    def get_contiguous_parameters(self, trainable_only: bool = False) -> ort.OrtValue:
        """A copy of the trained parameters, one after the other, as float32 on the host."""
        flat = [np.ravel(array).astype(np.float32) for _, array in self.session.parameters.items()]
        return ort.OrtValue.ortvalue_from_numpy(np.concatenate(flat))

    def copy_buffer_to_parameters(self, buffer: ort.OrtValue, trainable_only: bool = True) -> None:
        """Write what `get_contiguous_parameters` gave. Raises InputError if it has another size."""
        flat, start = np.ravel(buffer.numpy()), 0
        if flat.size != self.get_parameters_size():
            raise InputError(f"The buffer has {flat.size} elements, the parameters {self.get_parameters_size()}")
        for name, array in list(self.session.parameters.items()):
            part = flat[start : start + array.size].reshape(array.shape).astype(array.dtype)
            self.session.parameters[name] = part
            start += array.size

    def export_model_for_inferencing(
        self, inference_model_uri: str | os.PathLike[str], graph_output_names: Sequence[str]
    ) -> None:
        """Write the forward model with the parameters as they are now, as far as *graph_output_names* need it.

        Raises InputError for a name that it does not compute.
        """
        tuned = self.session.program.original(dict(self.session.parameters.items()))
        save_model(forward_only(tuned, list(graph_output_names)), Path(inference_model_uri))

    def _evaluated(self) -> Executor:
        if self._evaluation is None:
            raise InputError("There is no eval model: give Module(…, eval_model_uri=…)")
        return self._evaluation

    def _program_signature(self) -> Any:
        return self.session.program.signature if self.training else self._evaluated().signature
