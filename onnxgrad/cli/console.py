"""What results are printed on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table


def result_console() -> Console:
    """Standard output, where the names of a model are printed as they are, and never taken for markup."""
    return Console(markup=False, emoji=False)


def result_table(*columns: str, title: str | None = None) -> Table:
    """A table whose cells go on in the next line where there is no room, so that no name is cut short."""
    return Table(*(Column(column, overflow="fold") for column in columns), title=title)
