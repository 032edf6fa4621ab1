"""Runs a model that a transformation gave, in ONNX Runtime."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name. Feeds that the model does not take are left out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()} | {
        value.name for value in session.get_overridable_initializers()
    }
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: v for k, v in feeds.items() if k in taken}), strict=True))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Of the norms; the absolute error where nothing is expected."""
    scale = float(np.linalg.norm(expected)) or 1.0
    return float(np.linalg.norm(np.asarray(actual, np.float64) - expected)) / scale
