"""The compiler with some of its passes left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

import onnxgrad
from onnxgrad.compiler.pipeline import Pipeline
from onnxgrad.passes import choose_residuals, forward_part
from onnxgrad.passes.simplify import Simplify

from .drawing import WEIGHT, Model

Arrays = dict[str, np.ndarray]
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


def values(program: onnxgrad.Program, model: Model) -> Arrays:
    """The output and all gradients: in float32 by ONNX Runtime, in float64 by the reference evaluator."""
    if model.dy.dtype == np.float64:
        names = [port.name for port in program.signature.outputs]
        evaluator = ReferenceEvaluator(ir.to_proto(program.model))
        return dict(zip(names, evaluator.run(names, {"x": model.x, "y.grad_output": model.dy}), strict=True))
    session = program.session(providers=["CPUExecutionProvider"])
    outputs, gradients = session.value_and_grad({"x": model.x}, {"y": model.dy})
    return {**outputs, **{f"{name}.grad": gradient for name, gradient in gradients.items()}}


def check(model: Model, keep: Callable[[str], bool], **options: Any) -> None:
    """With the optional passes that *keep* accepts, and *options*, the values are those with none.

    In float32 to 1e-5. Where a model makes more of the rounding of its values, as one with a normalization of what is
    nearly constant does, in float64 to 1e-9.
    """
    try:
        _check(model, keep, options, rtol=1e-5)
    except AssertionError:
        _check(model.in_float64(), keep, options, rtol=1e-9)


def _check(model: Model, keep: Callable[[str], bool], options: dict[str, Any], *, rtol: float) -> None:
    expected = values(compile_with(model, lambda name: False), model)
    assert_same(values(compile_with(model, keep, **options), model), expected, rtol=rtol)


def assert_same(actual: Arrays, expected: Arrays, *, rtol: float) -> None:
    """Each array of *actual* differs from the expected one by no more than *rtol* of its Euclidean norm.

    In norm, because an element may be a sum that cancels, of which rounding leaves no digit. So may a whole gradient,
    that of a bias before a normalization for instance: one of less than a hundredth of the norm of the largest is
    measured by that hundredth.
    """
    assert list(actual) == list(expected)
    norms = {name: np.linalg.norm(array.astype(np.float64)) for name, array in expected.items()}
    least = max(norms.values()) / 100
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        error = np.linalg.norm(actual[name].astype(np.float64) - array)
        assert error <= rtol * max(norms[name], least), f"{name}: {error / max(norms[name], least):.1e}"
