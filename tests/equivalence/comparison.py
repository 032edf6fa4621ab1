"""Whether two joint graphs of one forward model compute the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

import onnxgrad

from .drawing import Model

Arrays = dict[str, np.ndarray]
Compile = Callable[[Model], onnxgrad.Program]


def values(program: onnxgrad.Program, model: Model) -> Arrays:
    """The output and all gradients: in float32 by ONNX Runtime, in float64 by the reference evaluator."""
    if model.dy.dtype == np.float64:
        names = [port.name for port in program.signature.outputs]
        evaluator = ReferenceEvaluator(ir.to_proto(program.model))
        return dict(zip(names, evaluator.run(names, {"x": model.x, "y.grad_output": model.dy}), strict=True))
    session = program.session(providers=["CPUExecutionProvider"])
    outputs, gradients = session.value_and_grad({"x": model.x}, {"y": model.dy})
    return {**outputs, **{f"{name}.grad": gradient for name, gradient in gradients.items()}}


def assert_equivalent(model: Model, one: Compile, other: Compile) -> None:
    """What *one* and *other* make of *model* computes the same.

    In float32 to 1e-5. Where a model makes more of the rounding of its values, as one with a normalization of what is
    nearly constant does, in float64 to 1e-9.
    """
    try:
        assert_same(values(one(model), model), values(other(model), model), rtol=1e-5)
    except AssertionError:
        exact = model.in_float64()
        assert_same(values(one(exact), exact), values(other(exact), exact), rtol=1e-9)


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
