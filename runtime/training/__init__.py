"""The training loop of `onnxruntime.training.api`, on an ordinary ONNX Runtime."""

from .checkpoint_state import CheckpointState, Parameter
from .lr_scheduler import LinearLRScheduler
from .module import Module
from .optimizer import Optimizer

__all__ = ["CheckpointState", "LinearLRScheduler", "Module", "Optimizer", "Parameter"]
