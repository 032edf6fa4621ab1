"""`onnxgrad inspect`: what is in a model, and what of it can be differentiated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import parse_sizes

if TYPE_CHECKING:
    from rich.console import Console

    from ..compiler.inspection import Inspection
    from ..passes.peak_memory import PeakMemory

LISTED = 5
"""How many of the values that live at the peak are named."""


def inspect(
    model: Annotated[Path, typer.Argument(help="A forward model or a joint graph.", metavar="MODEL.onnx")],
    free_dim: Annotated[
        list[str] | None,
        typer.Option(metavar="DIM=SIZE", help="The size of a symbolic dim, for the estimates: batch=32"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Inputs, outputs, parameters, operators and their rules; the signature of a joint graph and what it takes to run.

    Example: `onnxgrad inspect model.onnx`, `onnxgrad inspect model.train.onnx --free-dim batch=32`
    """
    from ..compiler.inspection import inspect_model

    sizes = parse_sizes(free_dim or [], "--free-dim")
    found = inspect_model(model, free_dims=sizes)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        _print(found, model, sizes)


def _print(found: Inspection, path: Path, sizes: dict[str, int]) -> None:
    from .console import result_console, result_table

    console = result_console()
    console.print(f"{path}: opset {found.opset}, {found.nodes} nodes, from {found.producer or '?'}", style="bold")
    if found.signature is not None:
        table = result_table("name", "role", "type", "of", "partner", title=f"Joint graph, mode {found.signature.mode}")
        for direction in (found.signature.inputs, found.signature.outputs):
            for port in direction:
                partner = f"{port.partner}{' (in place)' if port.in_place else ''}" if port.partner else ""
                shape = "" if port.shape is None else list(port.shape)
                table.add_row(port.name, port.role, f"{port.dtype}{shape}", port.of or "", partner)
            table.add_section()
        console.print(table)
        _print_costs(found, console)
        console.print(_describe_flops(found, sizes))
        if found.peak is not None:
            console.print(_describe_peak(found.peak, found.free_dims, sizes))
        return
    values = result_table("name", "kind", "type", title="Inputs and outputs")
    for kind, described in (("input", found.inputs), ("output", found.outputs)):
        for value in described:
            values.add_row(value.name, kind, value.type)
    console.print(values)
    parameters = result_table("parameter", "type", "active", title=f"{len(found.parameters)} parameters")
    for value in found.parameters:
        parameters.add_row(value.name, value.type, "yes" if value.active else "no: no output depends on it")
    console.print(parameters)
    if found.constants:
        console.print(f"Constants (no parameters): {', '.join(value.name for value in found.constants)}")
    operators = result_table("operator", "nodes", "active", "state", "what it says", title="Operators")
    for operator in found.operators:
        operators.add_row(operator.operator, str(operator.nodes), str(operator.active), operator.state, operator.note)
    console.print(operators)
    console.print(_describe_flops(found, sizes))
    for blocker in found.blockers:
        console.print(f"blocks the differentiated path: {blocker}", style="red")


def _print_costs(found: Inspection, console: Console) -> None:
    from .console import result_table

    costs = result_table("operator", "nodes", "backward", "MFLOP", "computes MB", title="Cost by operator")
    for cost in found.costs:
        costs.add_row(
            cost.operator, str(cost.nodes), str(cost.backward), f"{cost.flops / 1e6:.3f}", f"{cost.bytes / 1e6:.3f}"
        )
    passes = result_table("pass", "nodes before", "nodes after", title="Passes")
    for record in found.passes:
        passes.add_row(record.name, str(record.nodes_before), str(record.nodes_after))
    for table in (costs, passes) if found.passes else (costs,):
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)


def _describe_flops(found: Inspection, sizes: dict[str, int]) -> str:
    """One line: how much, for which sizes, and of a joint graph how many times its forward part."""
    forward, joint = found.forward_flops, found.joint_flops
    if joint is None:
        return f"Arithmetic{_given(found.free_dims, sizes)}: {forward.total / 1e9:.3g} GFLOP"
    ratio = f", {joint.total / forward.total:.2f} times its forward part's" if forward.total else ""
    return f"Arithmetic{_given(found.free_dims, sizes)}: {joint.total / 1e9:.3g} GFLOP{ratio}"


def _describe_peak(peak: PeakMemory, dims: list[str], sizes: dict[str, int]) -> str:
    """One line: how much, for which sizes, and what it is made of."""
    values = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in peak.live[:LISTED])
    if len(peak.live) > LISTED:
        values += f", and {len(peak.live) - LISTED} more"
    return f"Estimated peak of activations{_given(dims, sizes)}: {peak.bytes / 1e6:.1f} MB at {peak.node} ({values})"


def _given(dims: list[str], sizes: dict[str, int]) -> str:
    """The sizes that symbolic dims were given."""
    from ..passes.memory_of_values import NOMINAL_SIZE

    text = ", ".join(f"{name}={sizes.get(name, NOMINAL_SIZE)}" for name in dims)
    return f" for {text}" if text else ""
