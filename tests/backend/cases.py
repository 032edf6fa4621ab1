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
    _let_weights_be_no_inputs(model)
    feeds = dict(zip([value.name for value in model.graph.input], inputs, strict=True))
    expected = dict(zip([value.name for value in model.graph.output], outputs, strict=True))
    return Case(
        case.name.removeprefix("test_"),
        case.kind,
        model,
        unpack_inputs(model, feeds),
        unpack_outputs(model, expected),
        case.rtol,
        case.atol,
    )


def _fed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _let_weights_be_no_inputs(model: onnx.ModelProto) -> None:
    fed = _fed(model)
    del model.graph.input[:]
    model.graph.input.extend(fed)
    model.ir_version = max(model.ir_version, 4)


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
