"""onnx-ad: the adjoint model, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx_ad import reverse

from ..files import WorkloadFiles
from .cross_entropy import with_cross_entropy
from .inference import session
from .peer import Peer


class OnnxAd(Peer):
    """It differentiates graph inputs only, so the weights become inputs, which stay in memory between steps."""

    packages = ("onnx-ad",)

    def load(self) -> None:
        model = onnx.load(self.files.model)
        labels = self.files.labels()
        with_cross_entropy(model, labels.shape)
        self._trained = self.files.initializers()
        weights = _weights_as_inputs(model, self._trained)
        adjoint = reverse(model, inputs=self._trained, outputs=["loss"], layout="onnx")
        self._session = session(adjoint.SerializeToString(), self.threads)
        feeds = {**self.files.inputs(), "labels": labels, "adj_loss": np.ones(1, np.float32), **weights}
        self._binding = self._session.io_binding()
        for name, array in feeds.items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for output in self._session.get_outputs():
            self._binding.bind_output(output.name)

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {"step": self._step}

    def gradients(self) -> Mapping[str, np.ndarray]:
        self._step()
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._binding.get_outputs(), strict=True))
        # The last axis counts the seeds.
        return {name: values[f"adj_{name}"].numpy()[..., 0] for name in self._trained}

    def _step(self) -> None:
        self._session.run_with_iobinding(self._binding)


def _weights_as_inputs(model: onnx.ModelProto, names: list[str]) -> dict[str, np.ndarray]:
    graph = model.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in names}
    for tensor in [t for t in graph.initializer if t.name in names]:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        graph.initializer.remove(tensor)
    return weights


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return OnnxAd(files, threads)
