"""The compiler's Program, with the way to run it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, Self, cast, overload

from .compiler import compile as compiler
from .compiler import program as base
from .compiler import split as pair
from .passes.errors import InputError

if TYPE_CHECKING:
    import onnxruntime as ort

    from .compiler.load import ModelLike
    from .compiler.split import Residuals
    from .runtime.device import Provider
    from .runtime.session import Session


P = ParamSpec("P")


class Program(base.Program):
    __doc__ = base.Program.__doc__

    @classmethod
    def of(cls, program: base.Program) -> Self:
        return cls(program.model, program.signature, program.report, program.unused)

    def session(
        self,
        *,
        providers: Sequence[Provider] | None = None,
        options: ort.SessionOptions | None = None,
        cuda_graph: bool = False,
    ) -> Session:
        """Place the program on a device (see `Session`). Needs onnxruntime or onnxruntime-gpu."""
        from .runtime.session import Session

        return Session(self, providers=providers, options=options, cuda_graph=cuda_graph)

    def split(self, residuals: Residuals = "min", assume_dims: Mapping[str, int] | None = None) -> SplitProgram:
        """The program as a forward and a backward model (see `SplitProgram`).

        Args:
            residuals: what the one hands over to the other: "min", the fewest bytes without running a product, a
                convolution, a loop or a random node twice; "fast", so that nothing runs twice; or names of values.
            assume_dims: sizes for symbolic dims with which bytes are reckoned.

        Raises InputError for residuals that do not exist, or from which the gradients cannot be computed.
        """
        return SplitProgram.of(pair.split(self, residuals, assume_dims))


class SplitProgram(pair.SplitProgram):
    __doc__ = pair.SplitProgram.__doc__

    @classmethod
    def of(cls, split: pair.SplitProgram) -> Self:
        return cls(split.forward, split.backward)

    def session(
        self, *, providers: Sequence[Provider] | None = None, options: ort.SessionOptions | None = None
    ) -> Session:
        """Place both models on a device: `outputs, pullback = session.vjp(inputs)`."""
        from .runtime.session import Session

        return Session(self.joint(), providers=providers, options=options, split=self)


class _Compile(Protocol[P]):
    """`compile`, and with split=True and *residuals* as in `Program.split`, a SplitProgram."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Program: ...
    @overload
    def __call__(
        self, model: ModelLike, *, split: Literal[True], residuals: Residuals = "min", **options: Any
    ) -> SplitProgram: ...


def _on_runtime(function: Callable[P, base.Program]) -> _Compile[P]:
    @functools.wraps(function)
    def wrapped(*args: Any, split: bool = False, residuals: Residuals = "min", **kwargs: Any) -> Any:
        if split and kwargs.get("mode") == "accumulate":
            raise InputError("split=True gives fresh gradients; `pullback.backward` of a session accumulates them")
        if kwargs.get("tune") is True:
            from .runtime.tuning import Tuner

            kwargs["tune"] = Tuner(kwargs.get("assume_dims"))
        program = Program.of(function(*args, **kwargs))
        return program.split(residuals, kwargs.get("assume_dims")) if split else program

    return cast(_Compile[P], wrapped)


compile = _on_runtime(compiler.compile)


def load(path: str | os.PathLike[str]) -> Program:
    """Read a program that `Program.save` wrote. Raises InvalidModelError if the file is not one."""
    return Program.load(path)
