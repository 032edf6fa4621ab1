"""`onnxgrad ops`: what is known of each operator's derivative."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def ops(
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the table as a Markdown page.")] = False,
) -> None:
    """The table of operators and the state of their derivatives, from the registry.

    Example: `onnxgrad ops --json`
    """
    from ..compiler.operators import as_markdown, operator_table

    rows = operator_table()
    if as_json:
        typer.echo(json.dumps([row.as_dict() for row in rows]))
        return
    if markdown:
        typer.echo(as_markdown(rows), nl=False)
        return

    from .console import result_console, result_table

    table = result_table("operator", "domain", "opsets", "state", "what it says", "refused forms")
    for row in rows:
        table.add_row(row.operator, row.domain, row.opsets, row.state, row.note, row.limits)
    console = result_console()
    console.print(table)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    console.print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))
