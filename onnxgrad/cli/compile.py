"""`onnxgrad compile`: a forward model to a joint graph."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .options import as_wrt, beside, parse_bytes, parse_checkpoint, parse_factors, parse_loss, parse_sizes, parse_values

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..compiler.pipeline import PassRecord
    from ..compiler.signature import Mode
    from ..program import Program


def compile_model(
    model: Annotated[Path, typer.Argument(help="The forward model.", metavar="MODEL.onnx")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The joint graph; MODEL.train.onnx by default.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="A loss by name (cross_entropy, mse, …) or a second model, LOSS.onnx.")
    ] = None,
    loss_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the loss: label_smoothing=0.1")
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(help="'parameters' (the default), 'inputs', or names and glob patterns; may be repeated."),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output-name", help="An output to differentiate; may be repeated.")
    ] = None,
    mode: Annotated[str, typer.Option(help="'grad' for fresh gradients, 'accumulate' to add to buffers.")] = "grad",
    free_dim: Annotated[list[str] | None, typer.Option(metavar="DIM=SIZE", help="Fix a symbolic dim: batch=32")] = None,
    opset: Annotated[
        int | None, typer.Option(help="The opset of the joint graph, 18 to 26; the lowest that can express it.")
    ] = None,
    straight_through: Annotated[
        bool, typer.Option(help="Differentiate pairs of QuantizeLinear and DequantizeLinear as if they did not round.")
    ] = False,
    straight_through_node: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A node that cotangents pass unchanged; may be repeated.")
    ] = None,
    stop_gradient: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A value behind which no gradient flows; may be repeated.")
    ] = None,
    scale_gradient: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FACTOR", help="A value at which the gradient is multiplied; -1 reverses it."),
    ] = None,
    frozen: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Members of --wrt that get no gradient; patterns too.")
    ] = None,
    retain_grad: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A value whose gradient is an output too; may be repeated.")
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Two models, NAME.forward.onnx and NAME.backward.onnx, for -o NAME.onnx.")
    ] = False,
    residuals: Annotated[
        list[str] | None,
        typer.Option(metavar="min|fast|NAME", help="With --split: what goes from the one to the other; 'min'."),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="auto|COUNT|NAME",
            help="Run parts of the forward graph twice to need less memory: 'auto', how many times to cut it, or the "
            "name of a value to cut behind (a pattern too; may be repeated).",
        ),
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Checkpoints so that activations need no more than this: 4GB")
    ] = None,
    assume_dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIM=SIZE",
            help="A symbolic dim's size for estimates of memory and for --tune (else 32); it stays symbolic.",
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Measure the forms of each convolution's gradients on this machine, and take the fastest. What was "
            "measured is remembered in the user's cache directory (or ONNXGRAD_CACHE_DIR).",
        ),
    ] = False,
    provider: Annotated[
        list[str] | None, typer.Option(help="With --tune: execution providers, in order of preference.")
    ] = None,
    allow_unused: Annotated[bool, typer.Option(help="Accept members of --wrt without a gradient.")] = False,
    materialize_grads: Annotated[bool, typer.Option(help="Zeros where there is no gradient.")] = False,
    passes: Annotated[bool, typer.Option("--passes", help="Print what each pass did.")] = False,
    dump: Annotated[Path | None, typer.Option(help="Write the graph after each pass to this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile a forward model into a joint graph that computes its gradients.

    Example: `onnxgrad compile model.onnx -o model.train.onnx --loss cross_entropy --wrt 'layer4.*' --mode accumulate
    --free-dim batch=32`
    """
    from rich.console import Console

    import onnxgrad

    from ..compiler.save import check_writable
    from ..passes.errors import InputError

    if provider and not tune:
        raise InputError("--provider says where to measure; give --tune too")
    _check_choices(straight_through, straight_through_node, residuals, mode, split=split)
    target = output or beside(model, ".train.onnx")
    check_writable(target)
    assume_dims = parse_sizes(assume_dim or [], "--assume-dim")
    start = time.perf_counter()
    with Console(stderr=True, markup=False, emoji=False).status(f"Compiling {model} …") as status:

        def on_pass(record: PassRecord, current: ir.Model) -> None:
            status.update(f"Compiling {model}: {record.name} done, {record.nodes_after} nodes …")
            if dump is not None:
                _dump(dump, record, current)

        tuner = None
        if tune:
            tuner = onnxgrad.Tuner(
                assume_dims,
                providers=provider,
                on_measure=lambda what: status.update(f"Compiling {model}: measuring {what} …"),
            )
        program = onnxgrad.compile(
            model,
            wrt=as_wrt(wrt, "parameters"),
            outputs=outputs,
            loss=parse_loss(loss, parse_values(loss_option or [], "--loss-option")),
            mode=cast("Mode", mode),
            free_dims=parse_sizes(free_dim or [], "--free-dim"),
            opset=opset,
            straight_through=straight_through_node or straight_through,
            stop_gradient=stop_gradient or (),
            scale_gradient=parse_factors(scale_gradient or [], "--scale-gradient"),
            frozen=frozen or (),
            retain_grad=retain_grad or (),
            checkpoint=parse_checkpoint(checkpoint or []),
            memory_budget=None if memory_budget is None else parse_bytes(memory_budget, "--memory-budget"),
            assume_dims=assume_dims,
            tune=tuner or False,
            allow_unused=allow_unused,
            materialize_grads=materialize_grads,
            on_pass=on_pass,
        )
        written = _save(program, target, split=split, residuals=residuals, sizes=assume_dims)
    seconds = time.perf_counter() - start
    if as_json:
        typer.echo(json.dumps(_summary(program, written, seconds)))
    else:
        _print(program, written, seconds, with_passes=passes)


def _check_choices(
    straight_through: bool,
    straight_through_node: list[str] | None,
    residuals: list[str] | None,
    mode: str,
    *,
    split: bool,
) -> None:
    from ..passes.errors import InputError

    if straight_through and straight_through_node:
        raise InputError("Give --straight-through, for quantization, or --straight-through-node, not both")
    if residuals and not split:
        raise InputError("--residuals needs --split")
    if split and mode == "accumulate":
        raise InputError("--split gives fresh gradients; `pullback.backward` of a session of both models accumulates")


def _save(
    program: Program, target: Path, *, split: bool, residuals: list[str] | None, sizes: dict[str, int]
) -> list[Path]:
    """Write the program, as one file or two; the paths."""
    if not split:
        program.save(target)
        return [target]
    stem = target.name.removesuffix(".onnx")
    paths = [target.with_name(f"{stem}.{part}.onnx") for part in ("forward", "backward")]
    chosen: str | list[str] = "min" if not residuals else residuals[0] if len(residuals) == 1 else residuals
    program.split(chosen, sizes).save(*paths)
    return paths


def _dump(folder: Path, record: PassRecord, model: ir.Model) -> None:
    from ..compiler.save import save_model

    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.onnx"))) + 1
    save_model(model, folder / f"{number:02d}-{record.name}.onnx")


def _summary(program: Program, paths: list[Path], seconds: float) -> dict[str, object]:
    forward = _forward_nodes(program)
    return {
        "path": str(paths[0]),
        "paths": [str(path) for path in paths],
        "mode": program.signature.mode,
        "loss": program.signature.loss,
        "opset": program.model.opset_imports[""],
        "forward_nodes": forward,
        "joint_nodes": program.report[-1].nodes_after,
        "gradients": [port.of for port in program.signature.outputs_of("gradient", "grad_buffer")],
        "unused": list(program.unused),
        "bytes": sum(path.stat().st_size for path in paths),
        "seconds": round(seconds, 3),
        "passes": [record.__dict__ for record in program.report],
    }


def _forward_nodes(program: Program) -> int:
    return next(record.nodes_before for record in program.report if record.name in ("AttachLoss", "Differentiate"))


def _print(program: Program, paths: list[Path], seconds: float, *, with_passes: bool) -> None:
    from rich.table import Table

    from .console import result_console

    console = result_console()
    if with_passes:
        table = Table("pass", "nodes before", "nodes after", "ms", title="Passes")
        for column in table.columns[1:]:
            column.justify = "right"
        for record in program.report:
            table.add_row(
                record.name, str(record.nodes_before), str(record.nodes_after), f"{(record.seconds or 0) * 1e3:.1f}"
            )
        console.print(table)
    gradients = list(program.signature.outputs_of("gradient", "grad_buffer"))
    table = Table(show_header=False)
    table.add_row("mode", program.signature.mode)
    table.add_row("loss", program.signature.loss or "none (the outputs' cotangents are fed)")
    table.add_row("opset", str(program.model.opset_imports[""]))
    table.add_row("nodes", f"{_forward_nodes(program)} forward → {program.report[-1].nodes_after} joint")
    table.add_row("gradients", str(len(gradients)))
    if program.unused:
        table.add_row("unused", ", ".join(program.unused))
    table.add_row("size", f"{sum(path.stat().st_size for path in paths):,} bytes")
    table.add_row("time", f"{seconds:.2f} s")
    console.print(table)
    typer.echo(f"Wrote {' and '.join(map(str, paths))}")
