"""The loss as part of the ONNX model, for peers that differentiate a whole graph."""

from __future__ import annotations

import math

import onnx
from onnx import TensorProto, helper


def with_cross_entropy(model: onnx.ModelProto, labels: tuple[int, ...]) -> None:
    """Put the loss after the output `logits`, as the only output `loss`; int64 input `labels` of this shape."""
    graph = model.graph
    graph.node.append(helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["loss"], reduction="mean"))
    graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, labels))
    _only_output(graph)


def with_cross_entropy_of_one_hot(model: onnx.ModelProto, labels: tuple[int, ...], classes: int) -> None:
    """The same in elementary operators: float32 input `one_hot` of the shape of the logits [N, classes, …]."""
    graph = model.graph
    shape = [labels[0], classes, *labels[1:]]
    count = helper.make_tensor("loss_count", TensorProto.FLOAT, [], [-float(math.prod(labels))])
    graph.initializer.append(count)
    graph.node.extend(
        [
            helper.make_node("Softmax", ["logits"], ["loss_probabilities"], axis=1),
            helper.make_node("Log", ["loss_probabilities"], ["loss_log_probabilities"]),
            helper.make_node("Mul", ["loss_log_probabilities", "one_hot"], ["loss_terms"]),
            helper.make_node("ReduceSum", ["loss_terms"], ["loss_sum"], keepdims=0),
            helper.make_node("Div", ["loss_sum", "loss_count"], ["loss"]),
        ]
    )
    graph.input.append(helper.make_tensor_value_info("one_hot", TensorProto.FLOAT, shape))
    _only_output(graph)


def _only_output(graph: onnx.GraphProto) -> None:
    logits = next(value for value in graph.output if value.name == "logits")
    graph.value_info.append(logits)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
