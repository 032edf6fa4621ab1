"""The table of exports: graph sizes, compile time and worst relative error of each: `python -m tests.models.table`."""

import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import onnx

import onnxgrad

from ..zoo.exports import EXPORTS, OUTPUT, Export
from ..zoo.gradients import reference
from ..zoo.origins import find_origins, pull_back

cached_reference = cache(reference)


def row(export: Export, file: Path) -> str:
    onnx.save(export.to_onnx(export.architecture.build()), file)
    start = time.perf_counter()
    program = onnxgrad.compile(file)
    seconds = time.perf_counter() - start

    expected = cached_reference(export.architecture, 3 if export.dynamic_batch else 2)
    outputs, gradients = program.session().value_and_grad(expected.feeds, {OUTPUT: expected.seed})
    model = onnx.load(file)
    pulled = pull_back(expected.module, find_origins(expected.module, model), gradients)
    forward = np.linalg.norm(outputs[OUTPUT] - expected.output) / np.linalg.norm(expected.output)
    errors, own = expected.errors(pulled), expected.own_errors
    worst = max(errors, key=errors.__getitem__)

    nodes = next(record.nodes_before for record in program.report if record.name == "Differentiate")
    sizes = f"{len(model.graph.node)} | {nodes} | {program.report[-1].nodes_after}"
    return (
        f"| {export.name} | {sizes} | {seconds:.2f} | {len(gradients)} "
        f"| {forward:.1e} | {errors[worst]:.1e} | {max(own.values()):.1e} | {worst} |"
    )


def main(patterns: list[str]) -> None:
    print(
        "| export | nodes in the file | forward | joint | compile, s | gradients | output's error | worst gradient's "
        "| PyTorch's own worst | which |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for export in EXPORTS:
            if not patterns or any(pattern in export.name for pattern in patterns):
                print(row(export, Path(folder) / "model.onnx"), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
