"""A loss of any kind behind a prediction: one of `compiler.losses`, or a second model."""

from __future__ import annotations

import onnx_ir as ir

from ..passes.inline_functions import InlineFunctions
from ..passes.lift_constants import LiftConstants
from ..passes.upgrade_opset import UpgradeOpset
from .load import ModelLike, load_model
from .losses import Loss, attach_loss, attach_loss_model, resolve_loss


def attach(graph: ir.Graph, loss: str | Loss | ModelLike, prediction: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
    """Append *loss* of *prediction* to *graph*; the loss, and the new graph inputs (labels).

    The prediction is no output of the graph any more if the loss does not keep it.

    Raises InputError if the name is unknown, or the loss model does not fit.
    """
    if isinstance(loss, Loss) or (isinstance(loss, str) and not loss.endswith(".onnx")):
        resolved = resolve_loss(loss)
        attached = attach_loss(graph, resolved, prediction)
        if not resolved.keeps_prediction and prediction.is_graph_output():
            graph.outputs.remove(prediction)
        return attached
    model = load_model(loss).model
    for step in (InlineFunctions(), LiftConstants(), UpgradeOpset()):
        step.call(model)
    return attach_loss_model(graph, model)
