"""Runs the command line in this process, as a user would in a shell."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from onnxgrad.cli import main


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str


def run(*arguments: object) -> Finished:
    """Run `onnxgrad` with *arguments*. An error that is not the user's comes out as it is."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["onnxgrad", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "200", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Finished(code, out.getvalue(), err.getvalue())


def refused(finished: Finished, *, lines: int | None = 1) -> str:
    """The error message of a command that must have refused its input."""
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.endswith("\n")
    assert "Traceback" not in finished.err
    if finished.err.startswith("Usage: "):  # from the parser of the options, which puts a frame around its reason
        return " ".join(line.strip("│ ") for line in finished.err.splitlines() if line.startswith("│"))
    assert finished.err.startswith("onnxgrad: error: ")
    if lines is not None:
        assert len(finished.err.splitlines()) == lines
    return finished.err


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
