"""The ONNX exports of the zoo: every architecture by every exporter, with a static and with a dynamic batch."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from torch import nn

from .catalogue import ARCHITECTURES, Architecture, Inputs

Exporter = Literal["dynamo", "torchscript", "torchscript-raw"]
OUTPUT = "output"


@dataclass(frozen=True)
class Export:
    """One way to export one architecture.

    `dynamo` and `torchscript` are `torch.onnx.export` with its defaults: both fuse Conv with BatchNormalization and
    fold what is constant, transposed weights included. `torchscript-raw` leaves all of it in the graph.
    """

    architecture: Architecture
    exporter: Exporter
    dynamic_batch: bool

    @property
    def name(self) -> str:
        return f"{self.architecture.name}-{self.exporter}-{'dynamic' if self.dynamic_batch else 'static'}"

    def to_onnx(self, module: nn.Module) -> onnx.ModelProto:
        """Exports a module that the architecture built.

        The inputs keep their names, the one output is named `OUTPUT`, the dynamic dimension `batch`.
        """
        inputs = self.architecture.example()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.exporter == "dynamo":
                return dynamo(module, inputs, self.dynamic_batch)
            return torchscript(module, inputs, self.dynamic_batch, raw=self.exporter == "torchscript-raw")


def dynamo(module: nn.Module, inputs: Inputs, dynamic_batch: bool) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=[OUTPUT],
        dynamic_shapes=tuple({0: batch} for _ in inputs) if dynamic_batch else None,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def torchscript(module: nn.Module, inputs: Inputs, dynamic_batch: bool, raw: bool) -> onnx.ModelProto:
    modes = torch.onnx.TrainingMode
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            file,
            dynamo=False,
            input_names=list(inputs),
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "batch"} for name in inputs} if dynamic_batch else None,
            training=modes.PRESERVE if raw else modes.EVAL,
            do_constant_folding=not raw,
        )
        return onnx.load(file)


EXPORTS = tuple(
    Export(architecture, exporter, dynamic_batch)
    for architecture in ARCHITECTURES
    for exporter in get_args(Exporter)
    for dynamic_batch in (False, True)
)
