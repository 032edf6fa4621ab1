"""The compiler's Program, with the way to run it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, Self, cast

from .compiler import compile as compiler
from .compiler import program as base

if TYPE_CHECKING:
    import onnxruntime as ort

    from .runtime.device import Provider
    from .runtime.session import Session


P = ParamSpec("P")


class Program(base.Program):
    __doc__ = base.Program.__doc__

    @classmethod
    def of(cls, program: base.Program) -> Self:
        return cls(program.model, program.signature, program.report, program.unused)

    def session(
        self, *, providers: Sequence[Provider] | None = None, options: ort.SessionOptions | None = None
    ) -> Session:
        """Place the program on a device (see `Session`). Needs onnxruntime or onnxruntime-gpu."""
        from .runtime.session import Session

        return Session(self, providers=providers, options=options)


def _on_runtime(function: Callable[P, base.Program]) -> Callable[P, Program]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Program:
        if kwargs.get("tune") is True:
            from .runtime.tuning import Tuner

            kwargs["tune"] = Tuner(cast("Mapping[str, int] | None", kwargs.get("assume_dims")))
        return Program.of(function(*args, **kwargs))

    return wrapped


compile = _on_runtime(compiler.compile)


def load(path: str | os.PathLike[str]) -> Program:
    """Read a program that `Program.save` wrote. Raises InvalidModelError if the file is not one."""
    return Program.load(path)
