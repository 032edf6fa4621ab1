"""Cross entropy in the form that stock runtimes compute in the least memory and time."""

from __future__ import annotations

import onnx_ir as ir

from .differentiate import FORWARD_NODE, RULE
from .registry import Primal, Registry
from .rules.losses import negative_log_likelihood
from .substitution import move_before, substitute
from .tape import Tape

_LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")


class LowerCrossEntropy(ir.passes.InPlacePass):
    """Write SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss in primitives, the former with a LogSoftmax.

    ONNX Runtime has no kernels of them outside of its training build, and runs the functions that ONNX defines them by.
    That of the former adds an axis behind the classes, and for a LogSoftmax along any axis but the last the runtime
    transposes the scores there and back: for a vocabulary two more of the largest tensors that there are. Masks and
    counts that the gradient has too are written as it writes them, to be merged.

    Requires: shapes are inferred; the opset is the canonical one. Guarantees: no value changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        losses = [node for node in model.graph if node.op_type in _LOSSES and node.domain == ""]
        for node in losses:
            _lower(model.graph, node)
        return ir.passes.PassResult(model, bool(losses))


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    op = Tape(graph)
    name = node.name or str(node.outputs[0].name)
    op.at(name, {**node.metadata_props, FORWARD_NODE: name, RULE: node.op_type})
    before = len(graph)
    n = Primal(node, op, [False] * len(node.inputs), Registry())
    scores = n.required(0)
    log_prob = scores if node.op_type == "NegativeLogLikelihoodLoss" else op.LogSoftmax(scores, axis=1)
    results = [negative_log_likelihood(n, log_prob), log_prob]
    move_before(node, before)
    for old, new in zip(node.outputs, results, strict=False):
        if old.uses() or old.is_graph_output():
            substitute(old, new.value)
    if node.graph is not None:
        graph.remove(node, safe=True)
