"""`onnxgrad check`: a joint graph's gradients against finite differences."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import parse_sizes

if TYPE_CHECKING:
    from ..runtime.gradcheck import Comparison, GradcheckReport


MANY = 1_000_000
"""How many elements all gradients together have when moving them one by one takes too long to be the default."""


def check(
    program: Annotated[Path, typer.Argument(help="A joint graph.", metavar="MODEL.train.onnx")],
    data: Annotated[
        Path | None, typer.Option(help="Inputs and labels (.npz or .safetensors); random ones if omitted.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples of --data to use.", min=1)] = 4,
    dim: Annotated[
        list[str] | None, typer.Option(metavar="DIM=SIZE", help="The size of a symbolic dim of random inputs (else 2).")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="The step; several are tried if omitted.", min=0.0)] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance; by the dtype if omitted.", min=0.0)] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance; by the dtype if omitted.", min=0.0)] = None,
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast/--elements",
            help="Move all elements of a gradient at once, which suits large models, or each by itself, in float64. "
            f"By default --fast above {MANY:,} elements.",
        ),
    ] = None,
    max_elements: Annotated[int, typer.Option(help="Elements of one tensor that are moved one by one.", min=1)] = 16,
    second: Annotated[bool, typer.Option("--second", help="Check the second derivatives instead.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random inputs, seeds, elements and directions.", min=0)] = 0,
    provider: Annotated[list[str] | None, typer.Option(help="Execution providers, in order of preference.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Check every gradient of a joint graph against finite differences. Exit code 1 if one is wrong.

    Example: `onnxgrad check model.train.onnx --dim batch=4`
    """
    from rich.console import Console
    from rich.progress import Progress

    import onnxgrad

    from ..passes.errors import InputError
    from ..runtime.gradcheck import gradcheck, gradgradcheck
    from ..runtime.sample_inputs import sample_inputs
    from .data import load_arrays

    if data is not None and dim:
        raise InputError("--dim is the size of random inputs; --data has sizes of its own")
    loaded = onnxgrad.load(program)
    ports = list(loaded.signature.inputs_of("input", "label"))
    if data is None:
        inputs = sample_inputs(loaded, parse_sizes(dim or [], "--dim"), seed=seed)
    else:
        inputs = {name: array[:samples] if array.ndim else array for name, array in load_arrays(data, ports).items()}
    gradients = list(loaded.signature.outputs_of("gradient", "grad_buffer"))
    if fast is None:
        fast = sum(math.prod(port.static_shape or ()) for port in gradients) > MANY
    seeds = list(loaded.signature.inputs_of("grad_output")) if second else []
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("Checking", total=len(gradients) + len(seeds))
        report = (gradgradcheck if second else gradcheck)(
            loaded,
            inputs,
            eps=eps,
            atol=atol,
            rtol=rtol,
            raise_exception=False,
            fast_mode=fast,
            max_elements=max_elements,
            seed=seed,
            providers=provider,
            on_checked=lambda _: progress.advance(task),
        )
    if as_json:
        verdicts = [asdict(each) | {"worst": _as_dict(each.worst)} for each in report.checks]
        typer.echo(json.dumps({"passed": bool(report), "gradients": verdicts}))
    else:
        _print(report)
    if not report:
        raise typer.Exit(1)


def _as_dict(comparison: Comparison) -> dict[str, Any]:
    return asdict(comparison) | {"absolute": comparison.absolute, "relative": comparison.relative}


def _print(report: GradcheckReport) -> None:
    from rich.text import Text

    from .console import result_console, result_table

    table = result_table("gradient of", "worst at", "analytic", "numerical", "abs.", "rel.", "")
    table.caption = "abs. and rel.: the absolute and the relative error of the worst element"
    table.columns[0].min_width = 12
    for column in table.columns[2:]:
        column.no_wrap = True
        column.justify = "right"
    for check in report.checks:
        worst = check.worst
        table.add_row(
            check.name,
            "together" if worst.index is None else str(list(worst.index)),
            f"{worst.analytic:.4g}",
            f"{worst.numerical:.4g}",
            f"{worst.absolute:.0e}",
            f"{worst.relative:.0e}",
            Text("ok", "green") if check.passed else Text("WRONG", "red"),
        )
    console = result_console()
    console.print(table)
    moved, size = (sum(getattr(check, name) for check in report.checks) for name in ("elements", "size"))
    console.print(f"{moved:,} of {size:,} elements moved one by one, the others together")
    precisions = " and ".join(sorted({check.precision for check in report.checks}))
    if report:
        count = len(report.checks)
        console.print(f"Every gradient agrees with finite differences in {precisions} ({count} checked)", style="green")
    else:
        wrong = f"{len(report.wrong)} of {len(report.checks)} gradients are wrong"
        console.print(f"{wrong} (finite differences in {precisions})", style="red")
