"""The table of transformations by export: `python -m tests.transforms.table [PART OF A NAME …]`.

For each export the relative errors of the adjoint identity and of the Hessian's symmetry, how many nodes the tangent
map adds to each one of the forward model, and the same of the pair of models and of checkpoints; for exports of a small
bert and resnet, and for the benchmark's own, also how many residuals there are, and of how many bytes, by strategy.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

import onnxgrad
from benchmarks.export import export_forward
from benchmarks.workloads import WORKLOADS
from onnxgrad.passes.memory_of_values import size_in_bytes
from onnxgrad.passes.partition import dependents, needed_by

from ..zoo.exports import EXPORTS, OUTPUT, Export
from .laws import Arrays, Evaluator, asymmetry, check_adjoint, count_nodes, without_optimizations, worst_difference


def row(export: Export, path: Path) -> str:
    onnx.save(export.to_onnx(export.architecture.build()), path)
    model = onnx.load(path)
    feeds = {n: v.numpy() for n, v in export.architecture.example(3 if export.dynamic_batch else 2).items()}
    outputs = Evaluator(model)(feeds)
    inputs = any(array.dtype.kind == "f" for array in feeds.values())
    cells = []
    for wrt in ("inputs", "parameters"):
        if wrt == "inputs" and not inputs:
            cells += ["-", "-"]
            continue
        pushed = onnxgrad.jvp(model, wrt=wrt)
        check = check_adjoint(Evaluator(pushed, onnxgrad.vjp(model, wrt=wrt)), feeds, outputs)
        forward = count_nodes(pushed, lambda name: not name.endswith(".tangent"))
        cells += [f"{check.error:.1e}", f"{(len(pushed.graph.node) - forward) / forward:.2f}"]
    product = onnxgrad.hvp(model, wrt="inputs" if inputs else "parameters", loss="mse")
    random = np.random.default_rng(0)
    drawn = random.standard_normal(outputs[OUTPUT].shape, dtype=np.float32)
    cells.append(f"{asymmetry(Evaluator(product), {**feeds, 'labels': drawn}):.1e}")
    cells += _pair(model, feeds, {OUTPUT: drawn})
    return f"| {export.name} | {' | '.join(cells)} |"


def _pair(model: onnx.ModelProto, feeds: Arrays, seed: Arrays) -> list[str]:
    program, plain = onnxgrad.compile(model), without_optimizations()
    expected, fused = program.session(options=plain).grad(feeds, seed), program.session().grad(feeds, seed)
    cells = []
    for strategy in ("min", "fast"):
        split = program.split(strategy)
        cells.append(_difference(split.session(options=plain).vjp(feeds)[1](seed), expected))
        cells.append(_difference(split.session().vjp(feeds)[1](seed), fused))
    checkpointed = onnxgrad.compile(model, checkpoint=2).session(options=plain).grad(feeds, seed)
    return [*cells, _difference(checkpointed, expected)]


def _difference(actual: Arrays, expected: Arrays) -> str:
    same = all(np.array_equal(actual[name], array) for name, array in expected.items())
    return "0" if same else f"{worst_difference(actual, expected):.1e}"


def residual_rows(name: str, program: onnxgrad.Program) -> list[str]:
    """How much is handed over by strategy; all sizes are known."""
    rows = []
    for strategy in ("min", "fast"):
        split = program.split(strategy)
        values = {value.name: value for value in split.backward.model.graph.inputs}
        sizes = [size_in_bytes(values[name]) for name in split.residuals]
        rows.append(f"| {name} | {strategy} | {len(sizes)} | {sum(sizes):.0f} |")
    graph = program.model.graph
    named = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    seeds = [named[port.name] for port in program.signature.inputs_of("grad_output")]
    gradients = [named[port.name] for port in program.signature.outputs_of("gradient")]
    read = [value for value in needed_by(dependents(graph, seeds), gradients) if value.producer() is not None]
    rows.append(f"| {name} | all that is read | {len(read)} | {sum(map(size_in_bytes, read)):.0f} |")
    return rows


def main(patterns: list[str]) -> None:
    print(
        "| export | adjoint, inputs | tangent nodes / forward | adjoint, parameters | tangent nodes / forward "
        "| Hessian's asymmetry | min | min, fused | fast | fast, fused | checkpoints |\n" + "|---" * 11 + "|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for export in EXPORTS:
            if not patterns or any(pattern in export.name for pattern in patterns):
                print(row(export, Path(folder) / "model.onnx"), flush=True)
    print("\n| export | residuals | values | bytes |\n|---|---|---|---|")
    for export in EXPORTS:
        if export.name in ("bert-dynamo-static", "resnet_basic-dynamo-static"):
            program = onnxgrad.compile(export.to_onnx(export.architecture.build()))
            print("\n".join(residual_rows(export.name, program)), flush=True)
    for name in ("bert", "resnet18"):
        workload = WORKLOADS[name]
        program = onnxgrad.compile(export_forward(workload.module(), workload.batch()[0]), loss="cross_entropy")
        print("\n".join(residual_rows(f"the benchmark's {name}", program)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
