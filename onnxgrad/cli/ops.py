"""`onnxgrad ops`: what is known of each operator's derivative."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def ops(
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """The table of operators and the state of their derivatives, from the registry.

    Example: `onnxgrad ops --json`
    """
    from ..compiler.operators import operator_table

    rows = operator_table()
    if as_json:
        typer.echo(json.dumps([row.__dict__ for row in rows]))
        return

    from .console import result_console, result_table

    table = result_table("operator", "domain", "state", "what it says")
    for row in rows:
        table.add_row(row.operator, row.domain, row.state, row.note)
    console = result_console()
    console.print(table)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    console.print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
