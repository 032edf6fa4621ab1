"""The forward part of a program in float64, by onnx's reference evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from ..compiler.program import Program
from ..passes.cast_to_float64 import CastToFloat64


class Erf(OpRun):
    """Erf in the precision of its input; the evaluator's own rounds to float32."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (_erf(x),)


class Gelu(OpRun):
    """Gelu with constants in full precision; its function body, which the evaluator runs, has them in float32."""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        if approximate == "tanh":
            phi = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            phi = _erf(x / math.sqrt(2))
        return (np.asarray(0.5 * x * (1 + phi), x.dtype),)


class ExactForward:
    """Evaluates the forward outputs, and the loss if there is one, of a program in float64."""

    def __init__(self, program: Program) -> None:
        """Raises whatever the evaluator does for a graph that it cannot load."""
        model = program.forward(loss=program.signature.loss is not None)
        CastToFloat64().call(model)
        self._inputs = {str(value.name) for value in model.graph.inputs}
        self._outputs = [str(value.name) for value in model.graph.outputs]
        self._evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[Erf, Gelu])

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, from the inputs, labels and parameters by name; raises whatever the evaluator does."""
        # The evaluator takes arrays of rank 0 for something else than scalars as NumPy's own operators return them.
        exact: dict[str, Any] = {name: in_float64(feeds[name])[()] for name in self._inputs if name in feeds}
        with np.errstate(all="ignore"):
            results = self._evaluator.run(None, exact)
        return dict(zip(self._outputs, map(np.asarray, results), strict=True))


def in_float64(array: np.ndarray) -> np.ndarray:
    """*array* in float64 if it is of floats (bfloat16, which NumPy does not know, too)."""
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x)).astype(x.dtype)
