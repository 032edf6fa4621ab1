"""`onnxgrad train`: a joint graph and data in, the tuned forward model out."""

from __future__ import annotations

import contextlib
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..compiler.signature import Signature
    from ..runtime.metrics import Metric


class OptimizerName(StrEnum):
    sgd = "sgd"
    adam = "adam"
    adamw = "adamw"


class ScheduleName(StrEnum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


def train(
    program: Annotated[Path, typer.Argument(help="A joint graph with a loss.", metavar="MODEL.train.onnx")],
    data: Annotated[Path, typer.Option(help="Training data, .npz or .safetensors; keys are the graph's inputs.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the tuned forward model goes.")],
    val: Annotated[Path | None, typer.Option(help="Validation data, evaluated after each epoch.")] = None,
    optimizer: Annotated[OptimizerName, typer.Option(help="The optimizer.")] = OptimizerName.adamw,
    lr: Annotated[float, typer.Option(help="The learning rate.", min=0.0)] = 1e-3,
    momentum: Annotated[float | None, typer.Option(help="Of SGD; 0 if omitted.", min=0.0)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="The optimizer's own default if omitted.", min=0.0)] = None,
    schedule: Annotated[ScheduleName, typer.Option(help="Of the learning rate.")] = ScheduleName.constant,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.", min=0)] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    accumulate: Annotated[int, typer.Option(help="Micro-batches a step.", min=1)] = 1,
    clip_norm: Annotated[float | None, typer.Option(help="The largest global gradient norm.")] = None,
    clip_value: Annotated[float | None, typer.Option(help="The largest gradient element.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the samples.", min=0)] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Write checkpoints here, and continue from it if it is there.")
    ] = None,
    detect_anomaly: Annotated[
        bool, typer.Option("--detect-anomaly", help="Name the node that first makes a NaN or an infinity.")
    ] = False,
    provider: Annotated[list[str] | None, typer.Option(help="Execution providers, in order of preference.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the parameters of a joint graph and write the tuned forward model.

    Example: `onnxgrad train model.train.onnx --data train.npz --val val.npz --optimizer adamw --lr 1e-3 --epochs 5
    --batch-size 64 --accumulate 4 --clip-norm 1.0 -o tuned.onnx`
    """
    import onnxgrad

    from ..compiler import schedules
    from ..compiler.save import check_writable
    from ..passes.errors import InputError
    from ..runtime.batches import Batches
    from .data import load_arrays
    from .progress import TrainingProgress

    start = time.perf_counter()
    for path in (output, checkpoint):
        if path is not None:
            check_writable(path)
    if momentum is not None and optimizer is not OptimizerName.sgd:
        raise InputError(f"--momentum is for --optimizer sgd; {optimizer.value} has none")
    loaded = onnxgrad.load(program)
    if loaded.signature.loss is None:
        raise InputError(f"{program} has no loss to train on; compile it with --loss")
    ports = list(loaded.signature.inputs_of("input", "label"))
    batches = Batches(load_arrays(data, ports), batch_size, shuffle=True, seed=seed, drop_last=_has_fixed_batch(ports))
    validation = None
    if val is not None:
        validation = Batches(load_arrays(val, ports), batch_size, drop_last=_has_fixed_batch(ports))

    session = loaded.session(providers=provider)
    steps = epochs * -(-len(batches) // accumulate)
    factor = {
        ScheduleName.constant: lambda: schedules.constant(warmup=warmup),
        ScheduleName.linear: lambda: schedules.linear(steps, warmup=warmup),
        ScheduleName.cosine: lambda: schedules.cosine(steps, warmup=warmup),
    }[schedule]()
    options: dict[str, Any] = {"lr": lr}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if momentum is not None:
        options["momentum"] = momentum
    kinds = {OptimizerName.sgd: onnxgrad.SGD, OptimizerName.adam: onnxgrad.Adam, OptimizerName.adamw: onnxgrad.AdamW}

    anomalies = session.detect_anomaly() if detect_anomaly else contextlib.nullcontext()
    with TrainingProgress(steps) as progress, anomalies:
        trainer = onnxgrad.Trainer(
            session,
            kinds[optimizer](session, **options),
            accumulate=accumulate,
            clip_norm=clip_norm,
            clip_value=clip_value,
            schedule=factor,
            metrics=_metrics(loaded.signature, batches),
            checkpoint=checkpoint,
            on_step=progress.on_step,
        )
        resumed = trainer.resume()
        if resumed:
            progress.start_at(trainer.progress.step)
        before = None if validation is None else trainer.evaluate(validation)
        trainer.fit(batches, epochs=epochs, validation=validation)
        after = None if validation is None else trainer.evaluate(validation)
    session.export(output)
    result = {
        "path": str(output),
        "steps": trainer.progress.step,
        "resumed": resumed,
        "seconds": round(time.perf_counter() - start, 3),
        "before": None if before is None else {"loss": before.loss, **before.metrics},
        "after": None if after is None else {"loss": after.loss, **after.metrics},
    }
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(result)


def _has_fixed_batch(ports: list[Any]) -> bool:
    return any(port.shape and isinstance(port.shape[0], int) for port in ports)


def _metrics(signature: Signature, batches: Any) -> dict[str, Metric]:
    """Accuracy, where the labels are class indices of an output."""
    from ..runtime.metrics import accuracy

    for label in signature.inputs_of("label"):
        for output in signature.outputs_of("output"):
            indices = label.dtype in ("int64", "int32") and label.shape is not None and output.shape is not None
            if indices and len(output.shape or ()) == len(label.shape or ()) + 1:
                return {"accuracy": accuracy(output.name, label.name)}
    return {}


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .console import result_console

    table = Table("", "before", "after")
    for name in result["after"] or {}:
        table.add_row(f"validation {name}", f"{result['before'][name]:.4f}", f"{result['after'][name]:.4f}")
    table.add_row("steps", "", str(result["steps"]))
    table.add_row("time", "", f"{result['seconds']:.1f} s")
    result_console().print(table)
    typer.echo(f"Wrote {result['path']}")
