"""What a forward model computes, and its directional derivatives by finite differences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.rules.reference_operators import Reference

from .precision import as_precision, in_precision, is_float_array
from .readable import readable

Arrays = dict[str, np.ndarray]
Feeds = Mapping[str, Any]

READABLE_OPSET = 15
"""Older operators are brought to this opset where the reference evaluator lacks them or computes them wrongly."""

NEWEST_OPSET, NEWEST_IR_VERSION = 26, 13
"""Of ONNX Runtime."""


@dataclass(frozen=True)
class Oracle:
    """A forward model that can be evaluated.

    Attributes:
        evaluate: from feeds to the float outputs, both by name, the outputs in float64.
        exact: whether it computes in float64.
    """

    evaluate: Callable[[Feeds], Arrays]
    exact: bool

    @property
    def step(self) -> float:
        """A step of finite differences that keeps both their errors, rounding and curvature, small."""
        return 1e-6 if self.exact else 1e-2

    @property
    def rounding(self) -> float:
        """The relative error of an evaluation."""
        return 1e-14 if self.exact else 1e-6


def exact_oracles(model: onnx.ModelProto) -> Iterator[Oracle]:
    """onnx's reference evaluator in float64 on *model*, and on *model* in a later opset; none that fails to load it."""
    for convert in (lambda: model, lambda: onnx.version_converter.convert_version(model, READABLE_OPSET)):
        with contextlib.suppress(Exception):  # there are many ways in which the evaluator or the converter gives up
            yield by_reference(convert())


def by_reference(model: onnx.ModelProto) -> Oracle:
    names = [value.name for value in model.graph.output]
    evaluator = Reference(in_precision(readable(model), np.float64))

    def evaluate(feeds: Feeds) -> Arrays:
        # Scalars as NumPy's own operators return them: the evaluator takes arrays of rank 0 for something else.
        exact = {n: v[()] if isinstance(v, np.ndarray) else v for n, v in as_precision(feeds, np.float64).items()}
        with np.errstate(all="ignore"):
            results = evaluator.run(None, exact)
        return _floats(dict(zip(names, map(np.asarray, results), strict=True)))

    return Oracle(evaluate, exact=True)


def by_runtime(model: onnx.ModelProto) -> Oracle:
    session = new_session(_in_known_opset(in_precision(model, np.float32)))
    names = [value.name for value in session.get_outputs()]
    known = input_names(session)

    def evaluate(feeds: Feeds) -> Arrays:
        single = as_precision({name: value for name, value in feeds.items() if name in known}, np.float32)
        return _floats(dict(zip(names, session.run(None, single), strict=True)))

    return Oracle(evaluate, exact=False)


def _in_known_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """*model* in the newest opset that the runtime takes; a newer one differs in few of its operators."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(entry.version, NEWEST_OPSET)
    model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
    return model


def new_session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def input_names(session: ort.InferenceSession) -> set[str]:
    return {value.name for value in (*session.get_inputs(), *session.get_overridable_initializers())}


def _floats(results: Feeds) -> Arrays:
    return {name: array.astype(np.float64) for name, array in results.items() if is_float_array(array)}
