"""Optimizers as ONNX graphs that update a flat buffer of parameters in place."""

from .adam import AdamRule
from .rule import UpdateRule
from .sgd import SGDRule
from .update import BLOCK, update_model

__all__ = ["BLOCK", "AdamRule", "SGDRule", "UpdateRule", "update_model"]
