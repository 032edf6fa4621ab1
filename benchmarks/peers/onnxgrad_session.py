"""onnxgrad: the joint graph in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from onnxruntime import OrtValue

import onnxgrad
from onnxgrad import compile as compile_model  # brings the compiler, as the other peers' imports bring theirs

from ..files import WorkloadFiles
from .peer import LEARNING_RATE, Peer


class OnnxgradSession(Peer):
    """The session's own options: ONNX Runtime takes one thread a core by itself."""

    packages = ("onnxgrad", "onnxruntime")

    checkpoint: str | None = None

    def compile(self) -> None:
        """From the forward model's file to the joint graph's."""
        self._program = compile_model(
            self.files.model, loss="cross_entropy", wrt=self.files.initializers(), checkpoint=self.checkpoint
        )
        with tempfile.TemporaryDirectory() as folder:
            self._program.save(Path(folder) / "model.train.onnx")

    def load(self) -> None:
        self._session = self._program.session(providers=["CPUExecutionProvider"])
        self._inputs = {**self.files.inputs(), "labels": self.files.labels()}
        # Otherwise the first step would create the runtime's session, which belongs to the loaded state.
        self._loss = self._program.signature.loss
        self._session.executor("grad", self._loss)

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {
            "forward": lambda: self._session.run(self._inputs, as_ortvalues=True),
            "step": self._step,
            "train": self._train,
            "adamw": lambda: self._training[1].step(),
        }

    def gradients(self) -> Mapping[str, np.ndarray]:
        return {name: np.array(gradient.numpy()) for name, gradient in self._step()[1].items()}

    @cached_property
    def _training(self) -> tuple[onnxgrad.Session, onnxgrad.AdamW]:
        """A session of its own: an optimizer lays the session's parameters out anew."""
        session = self._program.session(providers=["CPUExecutionProvider"])
        return session, onnxgrad.AdamW(session, lr=LEARNING_RATE)

    def _step(self) -> tuple[Mapping[str, OrtValue], Mapping[str, OrtValue]]:
        """The loss and the gradients, as the other peers give them."""
        return self._session.value_and_grad(self._inputs, outputs=self._loss, as_ortvalues=True)

    def _train(self) -> None:
        session, optimizer = self._training
        session.backward(self._inputs, outputs=self._loss, as_ortvalues=True)
        optimizer.step()
        session.zero_grad()


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return OnnxgradSession(files, threads)
