"""A compiled joint graph with its signature and the parameters' values: what is saved, loaded and run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import onnx_ir as ir

from ..passes.accumulate import accumulate, discard_buffers
from ..passes.aliasing import may_alias
from ..passes.eliminate_dead_code import EliminateDeadCode
from ..passes.errors import InputError, InvalidModelError
from ..passes.fresh_names import FreshNames
from .load import load_model
from .original import restore_original
from .pipeline import PassRecord, keep_pass_records, read_pass_records
from .save import save_model
from .signature import SIGNATURE_KEY, Mode, OutputRole, Port, Signature


class Program:
    """A joint graph, ready to be saved or to be run by any ONNX Runtime.

    Attributes:
        model: the joint graph. Parameters are graph inputs with a default.
        signature: the role of each of its inputs and outputs.
        report: what each pass of the compilation did; without times for a program that was loaded.
        unused: members of `wrt` that no differentiated output depends on and that therefore have no gradient.
    """

    def __init__(
        self,
        model: ir.Model,
        signature: Signature,
        report: tuple[PassRecord, ...] = (),
        unused: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self.signature = signature
        self.report = report
        self.unused = unused
        model.metadata_props[SIGNATURE_KEY] = signature.to_json()
        if report:
            keep_pass_records(model, report)

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters' values by name, as they were when the program was compiled or saved."""
        initializers = self.model.graph.initializers
        return {port.name: _array(initializers[port.name]) for port in self.signature.inputs_of("parameter")}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program as one `.onnx` file, whole or not at all.

        Above 1 GB its weights go to `<name>.data` beside it. Raises Error when the disk is full or the folder cannot
        be written.
        """
        save_model(self.model, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a program that `save` wrote. Raises InvalidModelError if the file is not one."""
        model = load_model(path).model
        text = model.metadata_props.get(SIGNATURE_KEY)
        if text is None:
            raise InvalidModelError(
                f"{os.fspath(path)} is no joint graph: its metadata has no {SIGNATURE_KEY!r}. Compile it first: "
                "onnxgrad compile model.onnx -o model.train.onnx"
            )
        return cls(model, Signature.from_json(text), tuple(read_pass_records(model)))

    def original(self, parameters: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
        """The forward model as it was given to `compile`, with *parameters* as the values of its weights.

        Inputs, outputs, names, opset and metadata are those of the original file. Raises InputError for a name
        that is no parameter, or an array of another shape or dtype.
        """
        values = self.parameters
        for name, array in (parameters or {}).items():
            if name not in values:
                raise InputError(f"{name!r} is no parameter of this program; it has {', '.join(sorted(values))}")
            if array.shape != values[name].shape or array.dtype != values[name].dtype:
                raise InputError(
                    f"Parameter {name!r} is {values[name].dtype}{list(values[name].shape)}, "
                    f"not {array.dtype}{list(array.shape)}"
                )
            values[name] = array
        return restore_original(self.model, values)

    def with_mode(self, mode: Mode) -> Self:
        """The same differentiation in the other view: fresh gradients, or gradients added to buffers."""
        if mode == self.signature.mode:
            return self
        model = self.model.clone()
        graph = model.graph
        outputs = {value.name: value for value in graph.outputs}
        if mode == "accumulate":
            gradients = [port.name for port in self.signature.outputs_of("gradient")]
            free_name = FreshNames(graph).fresh
            names = {outputs[name]: free_name(f"{name}.buffer") for name in gradients}
            partners = accumulate(graph, names)
            return type(self)(model, _accumulating(self.signature, graph, partners), self.report, self.unused)
        inputs = {value.name: value for value in graph.inputs}
        buffers = list(self.signature.outputs_of("grad_buffer"))
        discard_buffers(graph, {outputs[port.name]: inputs[port.partner] for port in buffers})
        return type(self)(model, _fresh(self.signature), self.report, self.unused)

    def executable(self, outputs: Collection[str] | None = None) -> ir.Model:
        """The joint graph for a runtime session that feeds all inputs, the parameters among them.

        Inputs have no default in it: the session would hold a second copy of the parameters, and ONNX Runtime does
        not bind inputs that have one.

        Args:
            outputs: which of the graph's outputs to keep, with what they need; all if None.
        """
        model = self.model.clone()
        graph = model.graph
        for port in self.signature.inputs:
            graph.initializers.pop(port.name, None)
        if outputs is not None:
            graph.outputs[:] = [value for value in graph.outputs if value.name in outputs]
            EliminateDeadCode()(model)
            gives_gradients = any(port.name in outputs for port in self.signature.outputs_of("gradient", "grad_buffer"))
            # A seed that no gradient depends on may be fed nevertheless, as to the whole graph.
            seeds = {port.name for port in self.signature.inputs_of("grad_output")} if gives_gradients else set()
            graph.inputs[:] = [v for v in graph.inputs if v.uses() or v.is_graph_output() or v.name in seeds]
        return model

    def forward(self, *, loss: bool = False) -> ir.Model:
        """As `executable`, without the backward part: the outputs, and the *loss* if asked for, and what they need."""
        roles: tuple[OutputRole, ...] = ("output", "loss") if loss else ("output",)
        return self.executable({port.name for port in self.signature.outputs_of(*roles)})


def _accumulating(signature: Signature, graph: ir.Graph, partners: Mapping[ir.Value, ir.Value]) -> Signature:
    by_output = {output.name: (output, buffer) for output, buffer in partners.items()}
    inputs, outputs = list(signature.inputs), []
    for port in signature.outputs:
        if port.name not in by_output:
            outputs.append(port)
            continue
        output, buffer = by_output[port.name]
        shared = may_alias(graph, buffer, output)
        outputs.append(replace(port, role="grad_buffer", partner=buffer.name, in_place=shared))
        inputs.append(replace(port, name=str(buffer.name), role="grad_buffer", partner=port.name, in_place=shared))
    return Signature("accumulate", tuple(inputs), tuple(outputs))


def _fresh(signature: Signature) -> Signature:
    outputs = [
        replace(port, role="gradient", partner=None, in_place=False) if port.role == "grad_buffer" else port
        for port in signature.outputs
    ]
    inputs = [port for port in signature.inputs if port.role != "grad_buffer"]
    return Signature("grad", tuple(inputs), tuple(outputs))


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


__all__ = ["Port", "Program"]
