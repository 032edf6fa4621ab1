"""`onnxgrad bench`: how fast a joint graph is on this machine, and where its time goes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import parse_sizes

if TYPE_CHECKING:
    import numpy as np

    from ..program import Program
    from ..runtime.benchmark import Benchmark
    from ..runtime.timing import Spread

ROWS = {
    "step": "step: forward and backward, mode {mode}",
    "forward": "forward part of the joint graph",
    "inference": "forward model, inference session",
    "step_and_adamw": "step in mode accumulate, and AdamW",
    "adamw": "AdamW alone",
}


def bench(
    program: Annotated[Path, typer.Argument(help="A joint graph.", metavar="MODEL.train.onnx")],
    inputs: Annotated[
        Path | None,
        typer.Option(help="One batch of inputs and labels (.npz or .safetensors); random ones if omitted."),
    ] = None,
    dim: Annotated[
        list[str] | None, typer.Option(metavar="DIM=SIZE", help="The size of a symbolic dim of random inputs (else 2).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs and seeds.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="How many times each is measured.", min=1)] = 20,
    threads: Annotated[
        int | None, typer.Option(help="Threads that work on one operator; one a core by default.", min=1)
    ] = None,
    provider: Annotated[list[str] | None, typer.Option(help="Execution providers, in order of preference.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of a step goes instead.")] = False,
    top: Annotated[int, typer.Option(help="How many forward nodes the profile lists.", min=0)] = 15,
    picture: Annotated[Path | None, typer.Option(help="Draw the profile into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a joint graph: step, forward part, optimizer, memory; or, with --profile, each operator's share.

    Example: `onnxgrad bench model.train.onnx --dim batch=8 --profile --picture profile.png`
    """
    import onnxgrad

    from ..passes.errors import InputError
    from ..runtime.sample_inputs import sample_inputs
    from .data import load_arrays

    if picture is not None:
        if not profile:
            raise InputError("--picture draws the profile; give --profile too")
        _check_picture(picture)
    loaded = onnxgrad.load(program)
    sizes = parse_sizes(dim or [], "--dim")
    if inputs is None:
        arrays = sample_inputs(loaded, sizes, seed=seed)
    elif sizes:
        raise InputError("--dim is the size of random inputs; --inputs has sizes of its own")
    else:
        arrays = load_arrays(inputs, list(loaded.signature.inputs_of("input", "label")))
    if profile:
        _profile(loaded, program, arrays, seed, rounds, provider, threads, top, picture, as_json=as_json)
    else:
        _benchmark(loaded, program, arrays, seed, rounds, provider, threads, as_json=as_json)


def _check_picture(path: Path) -> None:
    """Raise InputError where a picture cannot be drawn, before anything is measured."""
    from importlib.util import find_spec

    from ..compiler.save import check_writable
    from ..passes.errors import InputError

    if find_spec("matplotlib") is None:
        raise InputError("--picture needs matplotlib; install it with: pip install 'onnxgrad[demo]'")
    if path.suffix.lower() != ".png":
        raise InputError(f"--picture writes a .png file, not {path}")
    check_writable(path)


def _benchmark(
    program: Program,
    path: Path,
    inputs: dict[str, np.ndarray],
    seed: int,
    rounds: int,
    provider: list[str] | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from ..runtime.benchmark import benchmark
    from ..runtime.sample_inputs import sample_seeds

    seeds = sample_seeds(program.session(providers=provider), inputs, seed=seed)
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("Starting", total=rounds + 3)
        measured = benchmark(
            program,
            path,
            inputs,
            seeds,
            rounds=rounds,
            providers=provider,
            threads=threads,
            on_progress=lambda what: progress.update(task, advance=1, description=what.capitalize()),
        )
    if as_json:
        where = {"providers": _providers(provider), "threads": threads, "rounds": rounds, "inputs": _describe(inputs)}
        typer.echo(json.dumps(where | asdict(measured)))
    else:
        _print(measured, program.signature.mode, _heading(path, inputs, provider, threads, f"{rounds} rounds"))


def _profile(
    program: Program,
    path: Path,
    inputs: dict[str, np.ndarray],
    seed: int,
    rounds: int,
    provider: list[str] | None,
    threads: int | None,
    top: int,
    picture: Path | None,
    *,
    as_json: bool,
) -> None:
    from rich.console import Console

    from ..runtime.profile import profile_step
    from ..runtime.sample_inputs import sample_seeds
    from .profile_table import as_dict, print_profile

    with Console(stderr=True, markup=False, emoji=False).status(f"Profiling {path} …"):
        seeds = sample_seeds(program.session(providers=provider), inputs, seed=seed)
        profile = profile_step(program, inputs, seeds, steps=rounds, providers=provider, threads=threads)
    heading = _heading(path, inputs, provider, threads, f"median of {profile.steps} steps")
    if picture is not None:
        from .profile_picture import draw_profile

        draw_profile(profile, picture, heading)
    if as_json:
        typer.echo(json.dumps(as_dict(profile)))
    else:
        print_profile(profile, heading, top)
        if picture is not None:
            typer.echo(f"Wrote {picture}")


def _print(measured: Benchmark, mode: str, heading: str) -> None:
    from .console import result_console, result_table

    console = result_console()
    console.print(heading, style="bold")
    table = result_table("", "median", "quartiles")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, label in ROWS.items():
        if name in measured.seconds:
            spread = measured.seconds[name]
            table.add_row(label.format(mode=mode), *_cells(spread, 1e3, " ms"))
    table.add_section()
    for name, ratio in measured.ratios.items():
        table.add_row(f"step / {ROWS[name]}", *_cells(ratio, 1.0, "×"))
    table.add_section()
    table.add_row("session creation", f"{measured.loaded.session_seconds:.3g} s", "")
    peak = measured.loaded.peak_bytes
    memory = "unknown on this system" if peak is None else f"{peak / 1e6:.1f} MB"
    table.add_row("peak resident memory above the loaded session", memory, "")
    console.print(table)
    for name, reason in measured.left_out.items():
        console.print(f"Not measured: {ROWS[name]}: {reason}")
    console.print(
        "No peer to compare with: PyTorch needs the Python module that a model was exported from", style="dim"
    )


def _cells(spread: Spread, scale: float, unit: str) -> tuple[str, str]:
    lower, median, upper = (_three_digits(scale * value) for value in (spread.lower, spread.median, spread.upper))
    return f"{median}{unit}", f"{lower} – {upper}{unit}"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _heading(
    path: Path, inputs: dict[str, np.ndarray], provider: list[str] | None, threads: int | None, count: str
) -> str:
    import os

    described = ", ".join(f"{name} {text}" for name, text in _describe(inputs).items())
    workers = threads or os.cpu_count() or 1
    where = f"onnxruntime {_runtime_version()}, {_providers(provider)[0]}, {workers} thread{'s' * (workers > 1)}"
    return f"{path} on {described}\n{where}, {count}"


def _runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _describe(inputs: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape)}" for name, array in inputs.items()}


def _providers(provider: list[str] | None) -> list[str]:
    from ..runtime.device import resolve_providers

    return [each if isinstance(each, str) else each[0] for each in resolve_providers(provider)]
