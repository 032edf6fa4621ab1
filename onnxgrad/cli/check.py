"""`onnxgrad check`: a joint graph's gradients against finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import parse_sizes


def check(
    program: Annotated[Path, typer.Argument(help="A joint graph.", metavar="MODEL.train.onnx")],
    data: Annotated[
        Path | None, typer.Option(help="Inputs and labels (.npz or .safetensors); random ones if omitted.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples of --data to use.", min=1)] = 4,
    dim: Annotated[
        list[str] | None, typer.Option(metavar="DIM=SIZE", help="The size of a symbolic dim of random inputs (else 2).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs, seeds and directions.")] = 0,
    provider: Annotated[list[str] | None, typer.Option(help="Execution providers, in order of preference.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Check every gradient of a joint graph against finite differences. Exit code 1 if one is wrong.

    Example: `onnxgrad check model.train.onnx --dim batch=4`
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    import onnxgrad

    from ..runtime.gradcheck import check_gradients
    from ..runtime.sample_inputs import sample_inputs
    from .console import result_console, result_table
    from .data import load_arrays

    loaded = onnxgrad.load(program)
    ports = list(loaded.signature.inputs_of("input", "label"))
    if data is None:
        inputs = sample_inputs(loaded, parse_sizes(dim or [], "--dim"), seed=seed)
    else:
        inputs = {name: array[:samples] if array.ndim else array for name, array in load_arrays(data, ports).items()}
    session = loaded.session(providers=provider)
    gradients = list(loaded.signature.outputs_of("gradient", "grad_buffer"))
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("Checking", total=len(gradients))
        checks = check_gradients(session, inputs, seed=seed, on_checked=lambda _: progress.advance(task))
    wrong = [checked for checked in checks if not checked.passed]
    if as_json:
        typer.echo(json.dumps({"passed": not wrong, "gradients": [checked.__dict__ for checked in checks]}))
    else:
        table = result_table("gradient of", "norm", "relative error", "verdict")
        for checked in checks:
            verdict = Text("ok", "green") if checked.passed else Text("WRONG", "red")
            table.add_row(checked.name, f"{checked.norm:.4g}", f"{checked.error:.2g}", verdict)
        console = result_console()
        console.print(table)
        if wrong:
            console.print(f"{len(wrong)} of {len(checks)} gradients are wrong", style="red")
        else:
            console.print(f"Every gradient agrees with finite differences ({len(checks)} checked)", style="green")
    if wrong:
        raise typer.Exit(1)
