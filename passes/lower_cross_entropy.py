"""Cross entropy in the form that stock runtimes compute in the least memory."""

from __future__ import annotations

import onnx_ir as ir

from .fresh_names import FreshNames
from .node_editor import NodeEditor
from .subgraphs import all_graphs


class LowerCrossEntropy(ir.passes.InPlacePass):
    """Write each SoftmaxCrossEntropyLoss as a NegativeLogLikelihoodLoss of a LogSoftmax.

    ONNX Runtime has no kernel of it outside of its training build, and runs the function that ONNX defines it by. That
    one adds an axis behind the classes, and for a LogSoftmax along any axis but the last the runtime transposes the
    scores there and back: for a vocabulary two more of the largest tensors that there are.

    Requires: shapes are inferred; the opset is the canonical one. Guarantees: no value changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names = FreshNames(model.graph)
        nodes = [node for graph in all_graphs(model.graph) for node in graph]
        losses = [node for node in nodes if node.op_type == "SoftmaxCrossEntropyLoss" and node.domain == ""]
        for node in losses:
            _lower(NodeEditor(node, names))
        return ir.passes.PassResult(model, bool(losses))


def _lower(editor: NodeEditor) -> None:
    node, scores = editor.node, editor.required(0)
    log_prob = editor.emit("LogSoftmax", [scores], "log_prob", axis=1)
    log_prob.type, log_prob.shape = scores.type, scores.shape
    if len(node.outputs) > 1:
        old = node.outputs[1]
        if old.name:
            log_prob.name = old.name
        old.replace_all_uses_with(log_prob, replace_graph_outputs=True)
        old.name = None
        node.resize_outputs(1)
    node.replace_input_with(0, log_prob)
    node.op_type = "NegativeLogLikelihoodLoss"
