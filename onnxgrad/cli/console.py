"""What results are printed on."""

from __future__ import annotations

from rich.console import Console


def result_console() -> Console:
    """Standard output, where the names of a model are printed as they are, and never taken for markup."""
    return Console(markup=False, emoji=False)
