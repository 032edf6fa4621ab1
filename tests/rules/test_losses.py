"""SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.rules import BUILTIN_RULES, scattering

from .checking import check_rule, joint_graph, run_runtime

SHAPES = [(3, 4), (2, 4, 3), (2, 3, 2, 2)]


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def labels_for(shape: tuple[int, ...], ignore_index: int | None) -> np.ndarray:
    labels = np.random.default_rng(3).integers(0, shape[1], (shape[0], *shape[2:]))
    if ignore_index is not None:
        labels.reshape(-1)[0] = ignore_index
    return labels


def oracle(
    function: Callable[..., torch.Tensor], reduction: str, ignore_index: int | None
) -> Callable[..., torch.Tensor]:
    ignore = {} if ignore_index is None else {"ignore_index": ignore_index}

    def loss(x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return function(x, labels.long(), weight, reduction=reduction, **ignore)

    return loss


def attributes_of(reduction: str, ignore_index: int | None) -> dict[str, object]:
    ignore = {} if ignore_index is None else {"ignore_index": ignore_index}
    return {"reduction": reduction, **ignore}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignore_index", [None, -100, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("op_type", "function"),
    [("SoftmaxCrossEntropyLoss", F.cross_entropy), ("NegativeLogLikelihoodLoss", F.nll_loss)],
)
def test_losses(op_type, function, shape, reduction, ignore_index, weighted) -> None:
    weights = [np.linspace(0.5, 2, shape[1])] if weighted else []
    check_rule(
        op_type,
        [sample(*shape), labels_for(shape, ignore_index), *weights],
        wrt=[0],
        attributes=attributes_of(reduction, ignore_index),
        torch_function=oracle(function, reduction, ignore_index),
    )


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignore_index", [None, -100])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("op_type", "function"),
    [("SoftmaxCrossEntropyLoss", F.cross_entropy), ("NegativeLogLikelihoodLoss", F.nll_loss)],
)
def test_losses_by_comparing(op_type, function, shape, reduction, ignore_index, weighted, monkeypatch) -> None:
    """In the form for images of few classes."""
    monkeypatch.setattr(scattering, "LEAST_BEHIND", 1)
    test_losses(op_type, function, shape, reduction, ignore_index, weighted)


@pytest.mark.parametrize("op_type", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
@pytest.mark.parametrize(
    ("scores", "labels", "compares"),
    [
        ("n, 8, 16, 16", "n, 16, 16", True),
        ("n, 8, h, w", "n, h, w", True),
        ("n, 8, 4, 4", "n, 4, 4", False),
        ("n, c, 16, 16", "n, 16, 16", False),
        ("n, 1000, 16, 16", "n, 16, 16", False),
        ("n, 8", "n", False),
    ],
)
def test_few_classes_of_many_pixels_are_compared(op_type: str, scores: str, labels: str, compares: bool) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 13, opset_import: ["": 26]>'
        f"loss (float[{scores}] x, int64[{labels}] label) => (float y) {{ y = {op_type} (x, label) }}"
    )
    operators = [node.op_type for node in joint_graph(model, ["x"], BUILTIN_RULES).graph.node]
    assert ("ScatterElements" in operators) != compares


@pytest.mark.parametrize("label", [-9, 8, 256])
def test_a_label_that_is_no_class_fails_in_the_gradient_alone(label: int) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 13, opset_import: ["": 26]>'
        "loss (float[2, 8, 16, 16] x, int64[2, 16, 16] label) => (float y) { y = SoftmaxCrossEntropyLoss (x, label) }"
    )
    (node,) = (joint := joint_graph(model, ["x"], BUILTIN_RULES)).graph.node[:1]
    joint.graph.node.remove(node)  # the loss itself
    labels = np.zeros((2, 16, 16), np.int64)
    labels[1, 3, 5] = label
    feeds = {"x": np.zeros((2, 8, 16, 16), np.float32), "label": labels, "y.grad_output": np.ones((), np.float32)}
    with pytest.raises(Exception, match=r"(?i)out of (range|bounds)|within the inclusive range"):
        run_runtime(joint, feeds)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("op_type", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_labels_of_a_large_vocabulary(op_type: str, dtype: str) -> None:
    """All classes are classes, and no label is counted from the end, with enough samples for the runtime's vectors."""
    samples, classes = 9, 70_000
    model = onnx.parser.parse_model(
        '<ir_version: 13, opset_import: ["": 26]>'
        f"loss (float[{samples}, {classes}] x, {dtype}[{samples}] label) => (float y)"
        f"{{ y = {op_type} <ignore_index = -100> (x, label) }}"
    )
    (node,) = (joint := joint_graph(model, ["x"], BUILTIN_RULES)).graph.node[:1]
    joint.graph.node.remove(node)  # the loss itself, which checks its labels by other means
    feeds = {"x": np.zeros((samples, classes), np.float32), "y.grad_output": np.ones((), np.float32)}
    labels = np.array([0, 1, 46_340, 46_341, 50_256, 65_536, classes - 1, -100, 7], dtype)
    (gradient,) = run_runtime(joint, {**feeds, "label": labels})
    expected = np.where(labels == -100, 0, -1 / (samples - 1))
    np.testing.assert_allclose(gradient[np.arange(samples), labels], expected, atol=2e-5)
    for label in (-1, -classes, -(2**31), classes):
        with pytest.raises(Exception, match=r"(?i)out of (range|bounds)|within the inclusive range"):
            run_runtime(joint, {**feeds, "label": np.where(labels == 7, label, labels).astype(dtype)})


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignore_index", [None, 1])
@pytest.mark.parametrize("op_type", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_class_weights(op_type: str, reduction: str, ignore_index: int | None) -> None:
    """PyTorch has no derivative with respect to the class weights: finite differences alone are the oracle."""
    check_rule(
        op_type,
        [sample(4, 3, 2), labels_for((4, 3, 2), ignore_index).astype(np.int32), np.linspace(0.5, 2, 3)],
        attributes=attributes_of(reduction, ignore_index),
    )


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_output(reduction: str, shape: tuple[int, ...]) -> None:
    loss = oracle(F.cross_entropy, reduction, None)
    check_rule(
        "SoftmaxCrossEntropyLoss",
        [sample(*shape), labels_for(shape, None)],
        attributes={"reduction": reduction},
        outputs=2,
        torch_function=lambda x, labels: (loss(x, labels), F.log_softmax(x, 1)),
    )


@pytest.mark.parametrize("op_type", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_all_samples_ignored(op_type: str) -> None:
    """The mean loss is 0/0, yet the gradient is zero, as PyTorch has it."""
    function = F.cross_entropy if op_type.startswith("Softmax") else F.nll_loss
    check_rule(
        op_type,
        [sample(2, 3), np.array([-1, -1])],
        attributes={"ignore_index": -1},
        torch_function=oracle(function, "mean", -1),
        finite_differences=False,
    )
