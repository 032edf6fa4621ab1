"""onnxgrad: a static autodiff compiler for ONNX.

A forward model goes in; a joint graph comes out, which computes the forward values and the gradients in standard
operators, so that the ordinary ONNX Runtime trains it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiler import losses, schedules
    from .compiler.losses import Loss
    from .compiler.signature import Port, Signature
    from .compiler.transforms import ggnvp, hessian, hvp, jacobian, jvp, mark, value_and_grad, vjp
    from .passes.errors import AnomalyError, Error, GradcheckError, InputError, InvalidModelError, UnsupportedError
    from .passes.registry import Registry
    from .passes.rules import BUILTIN_RULES
    from .program import Program, SplitProgram, compile, load
    from .runtime import metrics
    from .runtime.batches import Batches
    from .runtime.gradcheck import gradcheck, gradgradcheck
    from .runtime.optimizer import SGD, Adam, AdamW
    from .runtime.pullback import Pullback
    from .runtime.session import Session
    from .runtime.trainer import StepReport, Trainer
    from .runtime.tuning import Tuner
    from .runtime.tuning_cache import TuningCache

_HOMES = {
    "compile": ".program",
    "load": ".program",
    "Program": ".program",
    "AnomalyError": ".passes.errors",
    "SplitProgram": ".program",
    "Error": ".passes.errors",
    "GradcheckError": ".passes.errors",
    "InputError": ".passes.errors",
    "InvalidModelError": ".passes.errors",
    "UnsupportedError": ".passes.errors",
    "Registry": ".passes.registry",
    "BUILTIN_RULES": ".passes.rules",
    "Loss": ".compiler.losses",
    "losses": ".compiler.losses",
    "schedules": ".compiler.schedules",
    "metrics": ".runtime.metrics",
    "Batches": ".runtime.batches",
    "StepReport": ".runtime.trainer",
    "gradcheck": ".runtime.gradcheck",
    "gradgradcheck": ".runtime.gradcheck",
    "Port": ".compiler.signature",
    "Signature": ".compiler.signature",
    "Session": ".runtime.session",
    "Pullback": ".runtime.pullback",
    "SGD": ".runtime.optimizer",
    "Adam": ".runtime.optimizer",
    "AdamW": ".runtime.optimizer",
    "Trainer": ".runtime.trainer",
    "ggnvp": ".compiler.transforms",
    "hessian": ".compiler.transforms",
    "hvp": ".compiler.transforms",
    "jacobian": ".compiler.transforms",
    "jvp": ".compiler.transforms",
    "mark": ".compiler.transforms",
    "value_and_grad": ".compiler.transforms",
    "vjp": ".compiler.transforms",
    "Tuner": ".runtime.tuning",
    "TuningCache": ".runtime.tuning_cache",
}

__all__ = [
    "BUILTIN_RULES",
    "SGD",
    "Adam",
    "AdamW",
    "AnomalyError",
    "Batches",
    "Error",
    "GradcheckError",
    "InputError",
    "InvalidModelError",
    "Loss",
    "Port",
    "Program",
    "Pullback",
    "Registry",
    "Session",
    "Signature",
    "SplitProgram",
    "StepReport",
    "Trainer",
    "Tuner",
    "TuningCache",
    "UnsupportedError",
    "compile",
    "ggnvp",
    "gradcheck",
    "gradgradcheck",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "load",
    "losses",
    "mark",
    "metrics",
    "schedules",
    "value_and_grad",
    "vjp",
]
_MODULES = ("losses", "metrics", "schedules")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line answers fast, and compiling needs no runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name], __name__)
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
