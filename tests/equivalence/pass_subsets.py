"""The compiler with some of its passes left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir

import onnxgrad
from onnxgrad.compiler.pipeline import Pipeline
from onnxgrad.passes import choose_residuals, forward_part, lower_convolutions
from onnxgrad.passes.simplify import Simplify

from .drawing import WEIGHT, Model

REQUIRED = frozenset(
    "InlineFunctions ExpandNewerOperators LiftConstants UpgradeOpset CheckAttributes InferShapes ExpandContrib "
    "FoldConstants InlineConstantBranches UnrollSequences LowerOpset".split()
)
"""Passes without which a graph has no gradients, or is not valid; all others only make it better."""


def compile_with(model: Model, keep: Callable[[str], bool], **options: Any) -> onnxgrad.Program:
    """The joint graph, for the parameters and the input, with those optional passes only whose names *keep* accepts."""

    class Chosen(Pipeline):
        def run(self, passes: Iterable[ir.passes.PassBase]) -> None:
            super().run(step for step in _each(passes) if _name(step) in REQUIRED or keep(_name(step)))

    wrt = [f"{WEIGHT}*"] if model.x.dtype == np.int64 else [f"{WEIGHT}*", "x"]
    with (
        mock.patch.object(import_module("onnxgrad.compiler.compile"), "Pipeline", Chosen),
        # Values of a few bytes are worth no recomputation; here all are small.
        mock.patch.object(choose_residuals, "LEAST_SAVED", 1),
        mock.patch.object(forward_part, "SMALL", 0),
        mock.patch.object(lower_convolutions, "suits_tiles", return_value=True),
    ):
        return onnxgrad.compile(model.proto, wrt=wrt, allow_unused=True, **options)


def optional_passes() -> list[str]:
    """The names of the passes that a model can be compiled without."""
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> one (float[2,3] x, float[3] weight) => (float[2,3] y)'
        "{ y = Mul(x, weight) }"
    )
    seen: list[str] = []

    def keep(name: str) -> bool:
        seen.append(name)
        return True

    compile_with(Model(proto, np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)), keep, checkpoint=1)
    return list(dict.fromkeys(seen))


def _each(passes: Iterable[ir.passes.PassBase]) -> Iterable[ir.passes.PassBase]:
    for step in passes:
        yield from step.passes if isinstance(step, Simplify) else [step]


def _name(step: ir.passes.PassBase) -> str:
    return type(step).__name__
