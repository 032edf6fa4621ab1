"""Export the workloads: forward-only ONNX, as `torch.onnx.export` makes it by default, with batch and weights."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from .files import WorkloadFiles
from .origins import find_origins
from .workloads import Workload

_SOURCES = (*sorted((Path(__file__).parent / "workloads").glob("*.py")), Path(__file__))


def exported(workload: Workload, cache: Path) -> WorkloadFiles:
    """The files of *workload* in the folder *cache*: made if they are not there, or made by other code than this."""
    files = WorkloadFiles(cache / workload.name)
    stamp = files.folder / "made-by"
    key = _key()
    if not stamp.exists() or stamp.read_text() != key:
        shutil.rmtree(files.folder, ignore_errors=True)
        files.folder.mkdir(parents=True)
        _export(workload, files)
        stamp.write_text(key)
    return files


def export_forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The export of *module*, of static shapes, with the output `logits`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _export(workload: Workload, files: WorkloadFiles) -> None:
    module = workload.module()
    inputs, labels = workload.batch()
    model = export_forward(module, inputs)
    onnx.save(model, files.model)
    np.savez(files.folder / "batch.npz", labels=labels.numpy(), **{name: x.numpy() for name, x in inputs.items()})
    weights = {name: p.detach().numpy() for name, p in module.named_parameters()}
    np.savez(files.folder / "weights.npz", **weights)
    initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    files.write_origins(find_origins(initializers, weights))


def _key() -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for source in _SOURCES:
        digest.update(source.read_bytes())
    return digest.hexdigest()
