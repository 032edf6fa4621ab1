"""onnxsim's training loop: forward, backward and optimizer in one graph of opset 17, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, version_converter
from onnxsim import TrainingLoop, compile_training_loop

from ..files import WorkloadFiles
from .cross_entropy import with_cross_entropy_of_one_hot
from .peer import LEARNING_RATE, Peer


class OnnxsimTraining(Peer):
    """There is no step without an update, so the momentum update stands in for it. ONNX Runtime's default threads."""

    packages = ("onnxsim",)

    def load(self) -> None:
        model = _at_opset_17(onnx.load(self.files.model))
        labels, classes = self.files.labels(), _classes(model)
        with_cross_entropy_of_one_hot(model, labels.shape, classes)
        one_hot = np.moveaxis(np.eye(classes, dtype=np.float32)[labels], -1, 1)
        self._feeds = {**self.files.inputs(), "one_hot": np.ascontiguousarray(one_hot)}
        self._model = model
        self._momentum = self._loop("sgd_momentum")
        _ = self._momentum.step_graph

    def operations(self) -> Mapping[str, Callable[[], object]]:
        adam = self._loop("adam")
        return {
            "step": lambda: self._momentum(self._feeds, LEARNING_RATE),
            "train": lambda: adam(self._feeds, LEARNING_RATE),
        }

    def gradients(self) -> Mapping[str, np.ndarray]:
        """A first step of descent moves the weights by the gradient: far, so that rounding them hides nothing of it."""
        loop, rate = self._loop("sgd_momentum"), 2.0**20
        loop(self._feeds, rate)
        after, before = loop.parameters(), self._initial()
        return {name: (before[name] - after[name]) / rate for name in before}

    def _initial(self) -> dict[str, np.ndarray]:
        tensors = {t.name: t for t in self._model.graph.initializer}
        return {name: onnx.numpy_helper.to_array(tensors[name]) for name in self.files.initializers()}

    def _loop(self, optimizer: str) -> TrainingLoop:
        return compile_training_loop(
            self._model, "loss", self.files.initializers(), optimizer, providers=["CPUExecutionProvider"]
        )


def _at_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """The opset of its step graphs. ONNX's converter needs help with what opset 17 has no form of."""
    nodes = []
    for node in model.graph.node:
        nodes.extend(_gelu_by_erf(node) if node.op_type == "Gelu" else [node])
        for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes" and a.i == 0]:
            node.attribute.remove(attribute)
    constants = {"erf_sqrt2": np.sqrt(2), "erf_one": 1, "erf_half": 0.5}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return version_converter.convert_version(model, 17)


def _gelu_by_erf(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """x / 2 · (1 + erf(x / √2)), the function body of Gelu."""
    x, y = node.input[0], node.output[0]
    return [
        helper.make_node("Div", [x, "erf_sqrt2"], [f"{y}_scaled"]),
        helper.make_node("Erf", [f"{y}_scaled"], [f"{y}_erf"]),
        helper.make_node("Add", [f"{y}_erf", "erf_one"], [f"{y}_sum"]),
        helper.make_node("Mul", [x, "erf_half"], [f"{y}_half"]),
        helper.make_node("Mul", [f"{y}_half", f"{y}_sum"], [y]),
    ]


def _classes(model: onnx.ModelProto) -> int:
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return OnnxsimTraining(files, threads)
