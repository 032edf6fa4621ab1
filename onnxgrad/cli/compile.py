"""`onnxgrad compile`: a forward model to a joint graph."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import parse_bytes, parse_checkpoint, parse_sizes, parse_values

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..compiler.losses import Loss
    from ..compiler.pipeline import PassRecord
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
        typer.Option(metavar="DIM=SIZE", help="A symbolic dim's size for estimates of memory; it stays symbolic."),
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

    target = output or model.with_suffix(".train.onnx")
    start = time.perf_counter()
    with Console(stderr=True, markup=False, emoji=False).status(f"Compiling {model} …") as status:

        def on_pass(record: PassRecord, current: ir.Model) -> None:
            status.update(f"Compiling {model}: {record.name} done, {record.nodes_after} nodes …")
            if dump is not None:
                _dump(dump, record, current)

        program = onnxgrad.compile(
            model,
            wrt=_wrt(wrt),
            outputs=outputs,
            loss=_loss(loss, parse_values(loss_option or [], "--loss-option")),
            mode=mode,  # type: ignore[arg-type]
            free_dims=parse_sizes(free_dim or [], "--free-dim"),
            opset=opset,
            straight_through=straight_through,
            checkpoint=parse_checkpoint(checkpoint or []),
            memory_budget=None if memory_budget is None else parse_bytes(memory_budget, "--memory-budget"),
            assume_dims=parse_sizes(assume_dim or [], "--assume-dim"),
            allow_unused=allow_unused,
            materialize_grads=materialize_grads,
            on_pass=on_pass,
        )
        program.save(target)
    seconds = time.perf_counter() - start
    if as_json:
        typer.echo(json.dumps(_summary(program, target, seconds)))
    else:
        _print(program, target, seconds, with_passes=passes)


def _wrt(wrt: list[str] | None) -> str | list[str]:
    if not wrt:
        return "parameters"
    return wrt[0] if len(wrt) == 1 else wrt


def _loss(loss: str | None, options: dict[str, object]) -> str | Loss | None:
    if not options:
        return loss
    from ..compiler.losses import resolve_loss
    from ..passes.errors import InputError

    if loss is None:
        raise InputError("--loss-option needs --loss")

    return resolve_loss(loss, **options)


def _dump(folder: Path, record: PassRecord, model: ir.Model) -> None:
    from ..compiler.save import save_model

    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.onnx"))) + 1
    save_model(model, folder / f"{number:02d}-{record.name}.onnx")


def _summary(program: Program, path: Path, seconds: float) -> dict[str, object]:
    forward = _forward_nodes(program)
    return {
        "path": str(path),
        "mode": program.signature.mode,
        "loss": program.signature.loss,
        "opset": program.model.opset_imports[""],
        "forward_nodes": forward,
        "joint_nodes": program.report[-1].nodes_after,
        "gradients": [port.of for port in program.signature.outputs_of("gradient", "grad_buffer")],
        "unused": list(program.unused),
        "bytes": path.stat().st_size,
        "seconds": round(seconds, 3),
        "passes": [record.__dict__ for record in program.report],
    }


def _forward_nodes(program: Program) -> int:
    return next(record.nodes_before for record in program.report if record.name in ("AttachLoss", "Differentiate"))


def _print(program: Program, path: Path, seconds: float, *, with_passes: bool) -> None:
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
    table.add_row("size", f"{path.stat().st_size:,} bytes")
    table.add_row("time", f"{seconds:.2f} s")
    console.print(table)
    typer.echo(f"Wrote {path}")
