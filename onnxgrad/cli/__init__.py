"""The command line."""

from __future__ import annotations


def main() -> None:
    """Run `onnxgrad`; exit with 0, with 1 where a check failed, or with 2 for bad input."""
    from .app import run

    run()
