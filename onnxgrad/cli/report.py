"""`onnxgrad report`: a joint graph as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import beside, parse_sizes


def report(
    program: Annotated[Path, typer.Argument(help="A joint graph.", metavar="MODEL.train.onnx")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the page goes; beside the model if omitted.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A batch of inputs and labels (.npz or .safetensors), for times and gradients."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="How many samples of --data to use; all if omitted.", min=1)
    ] = None,
    free_dim: Annotated[
        list[str] | None,
        typer.Option(metavar="DIM=SIZE", help="The size of a symbolic dim, for the estimate of memory: batch=32"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the cotangents, where there is no loss.", min=0)] = 0,
    provider: Annotated[list[str] | None, typer.Option(help="Execution providers, in order of preference.")] = None,
) -> None:
    """One self-contained HTML page: the graph, memory, cost by operator and layer, gradients, passes, signature.

    Example: `onnxgrad report model.train.onnx -o report.html --data batch.npz`
    """
    import onnxgrad

    from ..compiler.save import check_writable
    from ..passes.errors import InputError
    from ..runtime.report.facts import gather
    from ..runtime.report.page import write_report
    from .data import load_arrays

    target = output or beside(program, ".html")
    check_writable(target)
    if data is None and (samples is not None or provider):
        raise InputError("--samples and --provider are for --data; without it nothing runs")
    loaded = onnxgrad.load(program)
    inputs = None
    if data is not None:
        arrays = load_arrays(data, list(loaded.signature.inputs_of("input", "label")))
        inputs = {name: array[:samples] if array.ndim else array for name, array in arrays.items()}
    sizes = parse_sizes(free_dim or [], "--free-dim")
    write_report(gather(loaded, program.name, inputs, sizes=sizes, seed=seed, providers=provider), target)
    typer.echo(f"Wrote {target}")
