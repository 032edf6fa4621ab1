"""`onnxruntime.training.api`, on an ordinary ONNX Runtime: `import onnxgrad.training as api`."""

from .runtime.training import CheckpointState, LinearLRScheduler, Module, Optimizer

__all__ = ["CheckpointState", "LinearLRScheduler", "Module", "Optimizer"]
