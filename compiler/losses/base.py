"""What a loss is: a fragment of a graph behind a prediction, and the labels that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import ClassVar

import onnx_ir as ir

from ...passes.errors import InputError, UnsupportedError
from ...passes.tape import Tape, Tensor

_KINDS: dict[type, type] = {float: Real, int: Integral, bool: bool, str: str}
"""What is accepted for an option, by the type of its default."""


@dataclass(frozen=True)
class Loss:
    """A loss with its options. Subclasses follow the function of `torch.nn.functional` that they name.

    Attributes:
        reduction: "mean", "sum", or "none" for one loss a sample (or element).
    """

    reduction: str = "mean"

    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), _KINDS.get(type(field.default), object)
            if not isinstance(value, kind):
                wanted = type(field.default).__name__
                raise InputError(f"{type(self).__name__}: {field.name} takes a value of type {wanted}, not {value!r}")
        if self.reduction not in self.reductions:
            raise InputError(
                f"{type(self).__name__}: reduction is one of {', '.join(self.reductions)}, not {self.reduction!r}"
            )

    @property
    def keeps_prediction(self) -> bool:
        """Whether the prediction stays an output of the program."""
        return True

    def label_type(self, prediction: Tensor) -> tuple[ir.DataType, ir.Shape]:
        """The dtype and shape of the labels for *prediction*: its own, unless a subclass says otherwise."""
        return prediction.dtype, ir.Shape(_dims(prediction))

    def attach(self, op: Tape, prediction: Tensor, label: Tensor) -> Tensor:
        """Emit the loss and return its value."""
        raise NotImplementedError

    def reduce(self, losses: Tensor) -> Tensor:
        """Apply the reduction to the losses of all elements."""
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()


def attach_loss(graph: ir.Graph, loss: Loss, prediction: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """Append *loss* of *prediction* to *graph*, with a new graph input for the labels.

    Returns:
        the loss value, named "loss" (or "loss_1", … where that is taken), and the new inputs ("labels").

    Raises UnsupportedError when the prediction is no float tensor of known rank.
    """
    op = Tape(graph)
    op.at("loss", {"onnxgrad.pass": "attach_loss"})
    predicted = op.tensor(prediction)
    if not predicted.dtype.is_floating_point():
        raise UnsupportedError(f"A loss needs a float prediction; {prediction.name!r} is {predicted.dtype}")
    dtype, shape = loss.label_type(predicted)
    label = ir.Value(name=op.fresh_name("labels"), type=ir.TensorType(dtype), shape=shape)
    graph.inputs.append(label)
    value = loss.attach(op, predicted, op.tensor(label)).value
    value.name = op.fresh_name("loss")
    return value, [label]


def without_axis(prediction: Tensor, axis: int) -> ir.Shape:
    """The shape of *prediction* without *axis*."""
    dims: Sequence[int | ir.SymbolicDim] = _dims(prediction)
    return ir.Shape([*dims[:axis], *dims[axis + 1 :]])


def _dims(prediction: Tensor) -> list[int | ir.SymbolicDim]:
    assert prediction.shape is not None
    return list(prediction.value.shape or ())
