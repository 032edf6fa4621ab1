"""`onnxgrad transform`: a forward model to one that computes a derivative, for any runtime."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import as_wrt, beside, parse_loss, parse_sizes, parse_values

_WITH_LOSS = ("value_and_grad", "hvp", "ggnvp", "hessian")


class Kind(StrEnum):
    """The transformations."""

    vjp = "vjp"
    jvp = "jvp"
    value_and_grad = "value_and_grad"
    hvp = "hvp"
    ggnvp = "ggnvp"
    jacobian = "jacobian"
    hessian = "hessian"
    expand = "expand"


def transform(
    kind: Annotated[Kind, typer.Argument(help="The derivative; or expand, which is none.")],
    model: Annotated[Path, typer.Argument(help="The forward model.", metavar="MODEL.onnx")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The new model; MODEL.KIND.onnx by default.")
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(help="'inputs' (the default), 'parameters', or names and glob patterns; may be repeated."),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option("--output-name", help="An output to differentiate; may be repeated.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="A loss by name or a second model; for value_and_grad, hvp, ggnvp, hessian.")
    ] = None,
    loss_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the loss: label_smoothing=0.1")
    ] = None,
    num_seeds: Annotated[
        str | None, typer.Option(metavar="COUNT|NAME", help="How many cotangents one run takes; for vjp.")
    ] = None,
    free_dim: Annotated[list[str] | None, typer.Option(metavar="DIM=SIZE", help="Fix a symbolic dim: batch=32")] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of the new model, 18 to 26; the lowest that can express it.")
    ] = None,
) -> None:
    """Write a derivative of a model as a plain model: products with its Jacobian or Hessian, or those themselves.

    With expand, write the training operators of the ONNX standard (Gradient, Adam, Adagrad, Momentum) in ordinary ones.

    Example: `onnxgrad transform jvp model.onnx -o model.jvp.onnx`
    """
    import onnx

    import onnxgrad

    from ..compiler.save import check_writable
    from ..passes.errors import InputError
    from .console import result_console, result_table

    target = output or beside(model, f".{kind.value}.onnx")
    check_writable(target)
    options: dict[str, object] = {}
    parsed = parse_loss(loss, parse_values(loss_option or [], "--loss-option"))
    if parsed is not None:
        if kind.value not in _WITH_LOSS:
            raise InputError(
                f"--loss is for {', '.join(_WITH_LOSS)}; {kind.value} differentiates the outputs themselves"
            )
        options["loss"] = parsed
    if num_seeds is not None:
        if kind is not Kind.vjp:
            raise InputError(f"--num-seeds is for vjp, not for {kind.value}")
        options["num_seeds"] = int(num_seeds) if num_seeds.lstrip("-").isdecimal() else num_seeds
    if kind is not Kind.expand:
        options |= {"wrt": as_wrt(wrt, "inputs"), "outputs": outputs}
    elif wrt or outputs:
        raise InputError("--wrt and --output-name are for derivatives; expand resolves those that the model asks for")
    getattr(onnxgrad, kind.value)(
        model,
        free_dims=parse_sizes(free_dim or [], "--free-dim"),
        opset=opset,
        to=target,
        **options,
    )
    written = onnx.load(target, load_external_data=False).graph
    table = result_table("", "name", "type")
    for side, values in (("input", written.input), ("output", written.output)):
        for value in values:
            table.add_row(side, value.name, _described(value))
    console = result_console()
    console.print(table)
    console.print(f"Wrote {target} ({len(written.node)} nodes)")


def _described(value: object) -> str:
    import onnx

    assert isinstance(value, onnx.ValueInfoProto)
    tensor = value.type.tensor_type
    dims = ", ".join(
        dim.dim_param or str(dim.dim_value) if dim.WhichOneof("value") else "?" for dim in tensor.shape.dim
    )
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{dims}]"
