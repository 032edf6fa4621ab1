"""`onnxruntime.training.artifacts`, for an ordinary ONNX Runtime: `from onnxgrad import artifacts`."""

from .compiler.artifacts import LossType, OptimType, generate_artifacts

__all__ = ["LossType", "OptimType", "generate_artifacts"]
