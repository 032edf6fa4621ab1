"""The forward model in ONNX Runtime's inference session, whose weights are constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from ..files import WorkloadFiles
from .peer import GEMM_SIZE, Peer


class Inference(Peer):
    packages = ("onnxruntime",)

    def load(self) -> None:
        self._session = session(self.files.model.read_bytes(), self.threads)
        self._inputs = self.files.inputs()

    def operations(self) -> Mapping[str, Callable[[], object]]:
        product, matrix = session(_matmul(), self.threads), np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
        return {
            "forward": lambda: self._session.run(["logits"], self._inputs),
            "gemm": lambda: product.run(["c"], {"a": matrix, "b": matrix}),
        }


def session(model: bytes, threads: int) -> ort.InferenceSession:
    """A session on the CPU with ONNX Runtime's defaults, and so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _matmul() -> bytes:
    a, b, c = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [GEMM_SIZE] * 2) for n in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "gemm", [a, b], [c])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return Inference(files, threads)
