"""`session.backward`, and the least that any caller of ONNX Runtime does to run the same graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime as ort

import onnxgrad
from onnxgrad.runtime.executor import create_session

from ..files import WorkloadFiles
from .peer import Peer


class Overhead(Peer):
    packages = ("onnxgrad", "onnxruntime")

    def load(self) -> None:
        files = self.files
        program = onnxgrad.compile(files.model, loss="cross_entropy", wrt=files.initializers(), mode="accumulate")
        self._session = program.session(providers=["CPUExecutionProvider"])
        self._inputs = {**files.inputs(), "labels": files.labels()}
        self._bare = create_session(program.executable(), ["CPUExecutionProvider"], None)
        self._binding = self._bare.io_binding()
        bound = {}
        for port in program.signature.inputs:
            known = {**self._inputs, **program.parameters}.get(port.name)
            # Seeds and empty gradient buffers.
            array = known if known is not None else np.full(port.shape, port.role == "grad_output", np.float32)
            bound[port.name] = ort.OrtValue.ortvalue_from_numpy(array)
            self._binding.bind_ortvalue_input(port.name, bound[port.name])
        for port in program.signature.outputs:
            if port.in_place:
                self._binding.bind_ortvalue_output(port.name, bound[str(port.partner)])
            else:
                self._binding.bind_output(port.name, "cpu")

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {
            "backward": lambda: self._session.backward(self._inputs, as_ortvalues=True),
            "bare": lambda: self._bare.run_with_iobinding(self._binding),
        }


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return Overhead(files, threads)
