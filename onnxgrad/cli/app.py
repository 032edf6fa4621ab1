"""The commands, and how their errors come out. Heavy imports wait inside the commands."""

from __future__ import annotations

import sys
from importlib.metadata import version

import typer

from .bench import bench
from .check import check
from .compile import compile_model
from .inspect import inspect
from .ops import ops
from .report import report
from .train import train
from .transform import transform

app = typer.Typer(
    name="onnxgrad",
    help="A static autodiff compiler for ONNX: a forward model goes in, a joint graph that trains it comes out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compile")(compile_model)
app.command("train")(train)
app.command("transform")(transform)
app.command("inspect")(inspect)
app.command("report")(report)
app.command("check")(check)
app.command("bench")(bench)
app.command("ops")(ops)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxgrad {version('onnxgrad')}")
        raise typer.Exit


@app.callback()
def onnxgrad(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def run() -> None:
    """Run the command line. A user's mistake is one line on stderr and exit code 2."""
    try:
        app()
    except OSError as error:
        _fail(f"{error.filename or 'The file'}: {error.strerror or error}")
    except Exception as error:
        from ..passes.errors import Error

        if not isinstance(error, Error):
            raise
        _fail(str(error))


def _fail(message: str) -> None:
    typer.echo(f"onnxgrad: error: {message}", err=True)
    sys.exit(2)
