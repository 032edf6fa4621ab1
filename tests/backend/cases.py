"""The cases of ONNX's backend test suite: every one that needs no download, with its model and data."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from .borders import Data, unpack_inputs, unpack_outputs

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
"""The other two, light and real, are whole networks whose weights are left out or must be downloaded."""

OLDEST_OPSET = 7
"""What onnxgrad reads; the suite's older models are converted, as its error for them says."""

SIZED_BY_DATA = ("Loop", "Range", "Unique")
"""Operators whose outputs have the declared sizes for the case's own data only."""


@dataclass(frozen=True)
class Case:
    """One case: a model, what it is fed, and what it must give; tensors all, also where the suite has sequences.

    Attributes:
        kind: one of KINDS.
        rtol, atol: how exactly the suite wants the outputs.
    """

    name: str
    kind: str
    model: onnx.ModelProto
    feeds: dict[str, Data]
    outputs: dict[str, Data]
    rtol: float
    atol: float


@functools.cache
def load_cases() -> dict[str, Case]:
    """All cases by `kind/name`, sorted."""
    np.random.seed(0)  # many of the suite's cases draw their data as they are imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [_load(case) for kind in KINDS for case in load_model_tests(kind=kind)]
    return {f"{case.kind}/{case.name}": case for case in sorted(found, key=lambda case: (case.kind, case.name))}


def _load(case: TestCase) -> Case:
    if case.model is not None:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        inputs, outputs = [[_from_proto(data) for data in part] for part in case.data_sets[0]]
    else:
        model = onnx.load(Path(case.model_dir) / "model.onnx")
        folder = Path(case.model_dir) / "test_data_set_0"
        inputs, outputs = _read(folder, "input", _fed(model)), _read(folder, "output", model.graph.output)
    if 0 < _opset(model) < OLDEST_OPSET:
        model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        _spread_slopes(model)
    _let_weights_be_no_inputs(model)
    feeds = dict(zip([value.name for value in model.graph.input], inputs, strict=True))
    expected = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
    tensors = unpack_inputs(model, feeds)
    _fix_what_cannot_be_fed(model, tensors)
    if any(node.op_type in SIZED_BY_DATA for node in model.graph.node):
        _open_output_sizes(model)
    return Case(
        case.name.removeprefix("test_"),
        case.kind,
        model,
        tensors,
        unpack_outputs(model, expected),
        case.rtol,
        case.atol,
    )


def _spread_slopes(model: onnx.ModelProto) -> None:
    """Let the slopes of PRelu broadcast to its channels, which they had of themselves before opset 7.

    The converter forgets that.
    """
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    slopes = {node.input[1] for node in model.graph.node if node.op_type == "PRelu"}
    for tensor in model.graph.initializer:
        if tensor.name in slopes and len(tensor.dims) == 1 and tensor.dims[0] > 1:
            tensor.dims.extend([1] * (rank - 2))


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _let_weights_be_no_inputs(model: onnx.ModelProto) -> None:
    fed = _fed(model)
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.ir_version = max(model.ir_version, 4)


def _fix_what_cannot_be_fed(model: onnx.ModelProto, feeds: dict[str, Data]) -> None:
    """Make constants of inputs of types that NumPy lacks, of which ONNX Runtime takes no arrays; none has gradients."""
    for value in list(model.graph.input):
        array = feeds[value.name]
        if isinstance(array, np.ndarray) and array.dtype.isbuiltin == 2 and array.dtype.name != "bfloat16":
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
            model.graph.input.remove(value)
            del feeds[value.name]


def _open_output_sizes(model: onnx.ModelProto) -> None:
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _from_proto(data: Any) -> Data:
    if isinstance(data, onnx.TensorProto):
        return numpy_helper.to_array(data)
    return np.asarray(data) if isinstance(data, np.generic) else data


def _read(folder: Path, stem: str, values: Iterable[onnx.ValueInfoProto]) -> list[Data]:
    """The data of *values*, each in a file of its own: as many as there are files."""
    found: list[Data] = []
    for index, value in enumerate(values):
        path = folder / f"{stem}_{index}.pb"
        if not path.exists():
            break
        kind = value.type.WhichOneof("value")
        if kind == "sequence_type":
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes())))
        elif kind == "optional_type":
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes())))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())))
    return found
