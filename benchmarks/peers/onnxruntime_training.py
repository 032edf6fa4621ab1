"""onnxruntime-training: artifacts generated offline, then its on-device training API."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.training import api, artifacts

from ..files import WorkloadFiles
from .peer import LEARNING_RATE, Peer


class OnnxruntimeTraining(Peer):
    packages = ("onnxruntime-training-cpu",)

    def load(self) -> None:
        model = onnx.load(self.files.model)
        _name_statistics(model)
        trained = self.files.initializers()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            artifacts.generate_artifacts(
                model,
                requires_grad=trained,
                loss=artifacts.LossType.CrossEntropyLoss,
                optimizer=artifacts.OptimType.AdamW,
                artifact_directory=folder,
            )
            options = ort.SessionOptions()
            options.intra_op_num_threads = self.threads
            options.log_severity_level = 3
            self._state = api.CheckpointState.load_checkpoint(folder / "checkpoint")
            self._module = api.Module(
                folder / "training_model.onnx", self._state, folder / "eval_model.onnx", session_options=options
            )
            self._optimizer = api.Optimizer(folder / "optimizer_model.onnx", self._module)
        self._optimizer.set_learning_rate(LEARNING_RATE)
        batch = {**self.files.inputs(), "labels": self.files.labels()}
        self._batch = [batch.get(name, batch["labels"]) for name in self._module.input_names()]

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {"step": self._step, "train": self._train, "adamw": self._optimizer.step}

    def gradients(self) -> Mapping[str, np.ndarray]:
        self._module.lazy_reset_grad()
        self._step()
        return {name: self._state.parameters[name].grad for name in self.files.initializers()}

    def _step(self) -> None:
        self._module.train()
        self._module(*self._batch)
        self._module.lazy_reset_grad()

    def _train(self) -> None:
        self._module.train()
        self._module(*self._batch)
        self._optimizer.step()
        self._module.lazy_reset_grad()


def _name_statistics(model: onnx.ModelProto) -> None:
    """Its gradient of LayerNormalization reads the optional outputs, which exporters leave out."""
    for node in model.graph.node:
        if node.op_type == "LayerNormalization" and len(node.output) == 1:
            node.output.extend([f"{node.output[0]}_mean", f"{node.output[0]}_inv_std"])


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return OnnxruntimeTraining(files, threads)
