"""Losses against torch.nn.functional: values and gradients, every option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.compiler.losses import (
    L1,
    LOSSES,
    MSE,
    NLL,
    BinaryCrossEntropyWithLogits,
    CrossEntropy,
    Huber,
    KLDivergence,
    Loss,
    SmoothL1,
    attach_loss,
    attach_loss_model,
    resolve_loss,
)
from onnxgrad.passes.differentiate import differentiate
from onnxgrad.passes.errors import InputError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.lower_cross_entropy import LowerCrossEntropy
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.rules import BUILTIN_RULES

random = np.random.default_rng(0)
REDUCTIONS = ("mean", "sum", "none")


def forward(shape: tuple[int | str, ...], dtype: type = np.float32) -> ir.Model:
    """The identity, as a forward model: its output is the prediction."""
    kind = ir.DataType.from_numpy(np.dtype(dtype))
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(shape))
    node = ir.node("Identity", [x])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, x.shape
    return ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 26}, name="forward"), ir_version=10)


def with_gradient(model: ir.Model, loss: ir.Value) -> onnx.ModelProto:
    """Outputs: the loss, and the gradient of its sum with respect to x."""
    graph = model.graph
    seed = ir.Value(name="seed", type=loss.type, shape=loss.shape)
    graph.inputs.append(seed)
    gradient = differentiate(graph, {loss: seed}, [graph.inputs[0]], BUILTIN_RULES)[graph.inputs[0]]
    graph.outputs[:] = [loss, gradient]
    LowerOpset()(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def check(
    loss: Loss,
    expected: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    prediction: np.ndarray,
    label: np.ndarray,
    *,
    dtype: type = np.float32,
    tolerance: float = 1e-5,
) -> None:
    x = torch.tensor(prediction, dtype=torch.float64, requires_grad=True)
    target = torch.tensor(label, dtype=torch.float64 if label.dtype.kind == "f" else torch.int64)
    value = expected(x, target)
    seed = random.standard_normal(tuple(value.shape))
    (gradient,) = torch.autograd.grad(value, x, torch.tensor(seed))
    shapes: list[tuple[int | str, ...]] = [prediction.shape]
    if prediction.ndim > 1:
        shapes.append(("batch", *prediction.shape[1:]))
    for shape in shapes:
        model = forward(shape, dtype)
        result, (labels,) = attach_loss(model.graph, loss, model.graph.outputs[0])
        assert (result.name, labels.name) == ("loss", "labels")
        session = ort.InferenceSession(
            with_gradient(model, result).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        cast = label.astype(dtype) if label.dtype.kind == "f" else label
        feeds = {"x": prediction.astype(dtype), "labels": cast, "seed": np.asarray(seed, dtype)}
        actual_value, actual_gradient = session.run(None, feeds)
        assert actual_value.dtype == dtype
        assert actual_value.shape == tuple(value.shape)
        np.testing.assert_allclose(actual_value, value.detach().numpy(), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(actual_gradient, gradient.numpy(), rtol=tolerance, atol=tolerance)


LOGITS = {
    "matrix": (random.standard_normal((6, 5)), np.array([0, 4, 2, 1, 3, 2])),
    "image": (random.standard_normal((2, 3, 2, 2)), random.integers(0, 3, (2, 2, 2))),
    "single": (random.standard_normal(4), np.array(2)),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(reduction: str, logits: str, smoothing: float, weighted: bool) -> None:
    x, labels = LOGITS[logits]
    weight = list(random.uniform(0.5, 2, x.shape[min(1, x.ndim - 1)])) if weighted else None
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    check(
        CrossEntropy(reduction=reduction, label_smoothing=smoothing, weight=weight),
        lambda x, y: F.cross_entropy(x, y, weight=tensor, reduction=reduction, label_smoothing=smoothing),
        x,
        labels,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 2, -1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_leaves_ignored_labels_out(reduction: str, ignore_index: int, smoothing: float) -> None:
    x, labels = LOGITS["matrix"][0], np.array([0, ignore_index, 2, 1, ignore_index, 3])
    check(
        CrossEntropy(reduction=reduction, ignore_index=ignore_index, label_smoothing=smoothing),
        lambda x, y: F.cross_entropy(x, y, ignore_index=ignore_index, reduction=reduction, label_smoothing=smoothing),
        x,
        labels,
    )


def run_with_gradient(loss: Loss, prediction: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = forward(prediction.shape)
    result, _ = attach_loss(model.graph, loss, model.graph.outputs[0])
    session = ort.InferenceSession(with_gradient(model, result).SerializeToString(), providers=["CPUExecutionProvider"])
    value, gradient = session.run(None, {"x": prediction, "labels": labels, "seed": np.array(1, np.float32)})
    return value, gradient


CLASS_WEIGHTS = [0.5, 2.0, 1.0]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "weight": CLASS_WEIGHTS}])
def test_ignored_samples_alone_have_a_gradient_of_zero(options: dict[str, Any]) -> None:
    value, gradient = run_with_gradient(CrossEntropy(**options), np.ones((2, 3), np.float32), np.array([-100, -100]))
    assert np.isnan(value)  # as in PyTorch: the mean over no sample
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "weight": CLASS_WEIGHTS}])
def test_ignored_samples_may_hold_infinities(options: dict[str, Any], reduction: str) -> None:
    x, labels = np.array([[-np.inf, 0, 1], [1, 2, 3], [0, 1, 0]], np.float32), np.array([-100, 1, 2])
    value, gradient = run_with_gradient(CrossEntropy(reduction=reduction, **options), x, labels)
    tensor = torch.tensor(x, requires_grad=True)
    weight = torch.tensor(CLASS_WEIGHTS) if "weight" in options else None
    expected = F.cross_entropy(
        tensor,
        torch.tensor(labels),
        weight=weight,
        reduction=reduction,
        label_smoothing=options.get("label_smoothing", 0.0),
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (BinaryCrossEntropyWithLogits(pos_weight=[1.0, 2.0]), "pos_weight of shape \\[2\\] does not broadcast"),
        (BinaryCrossEntropyWithLogits(weight=np.ones((1, 4, 5))), "weight of shape \\[1, 4, 5\\] does not broadcast"),
        (BinaryCrossEntropyWithLogits(weight=["a"]), "weight is a number or an array of numbers"),
        (CrossEntropy(weight=[1.0, 2.0]), "weight has 2 factors, but the prediction has 5 classes"),
        (NLL(weight=[[1.0]]), "weight has one factor for each class"),
    ],
)
def test_weights_that_do_not_fit_are_refused(loss: Loss, message: str) -> None:
    model = forward((4, 5))
    with pytest.raises(InputError, match=message):
        attach_loss(model.graph, loss, model.graph.outputs[0])


@pytest.mark.parametrize("loss", [CrossEntropy(), NLL()])
def test_a_scalar_has_no_classes(loss: Loss) -> None:
    model = forward(())
    with pytest.raises(InputError, match="'y' is a scalar"):
        attach_loss(model.graph, loss, model.graph.outputs[0])


@pytest.mark.parametrize("bad", [3, -1, -3])
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(label_smoothing=0.1), NLL()])
def test_a_label_that_is_no_class_makes_the_run_fail(loss: Loss, bad: int) -> None:
    model = forward((2, 3))
    result, _ = attach_loss(model.graph, loss, model.graph.outputs[0])
    model.graph.outputs[:] = [result]
    LowerCrossEntropy()(InferShapes()(model).model)
    LowerOpset()(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r"(?i)out of (range|bounds)|within the inclusive range"):
        session.run(None, {"x": np.ones((2, 3), np.float32), "labels": np.array([0, bad])})


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nll(reduction: str, logits: str, weighted: bool) -> None:
    x, labels = LOGITS[logits]
    weight = list(random.uniform(0.5, 2, x.shape[min(1, x.ndim - 1)])) if weighted else None
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    check(
        NLL(reduction=reduction, weight=weight, ignore_index=1),
        lambda x, y: F.nll_loss(x, y, weight=tensor, reduction=reduction, ignore_index=1),
        x,
        labels,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("pos_weight", [None, [3.0, 1.0, 0.2]])
def test_binary_cross_entropy_with_logits(reduction, weight, pos_weight) -> None:
    def expected(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        factors = [None if w is None else torch.tensor(w, dtype=torch.float64) for w in (weight, pos_weight)]
        return F.binary_cross_entropy_with_logits(x, y, factors[0], reduction=reduction, pos_weight=factors[1])

    loss = BinaryCrossEntropyWithLogits(reduction=reduction, weight=weight, pos_weight=pos_weight)
    check(loss, expected, random.standard_normal((4, 3)) * 3, random.uniform(0, 1, (4, 3)))


def test_binary_cross_entropy_of_large_logits_is_finite() -> None:
    x = np.array([[-80.0, 80.0, 100.0]])
    check(BinaryCrossEntropyWithLogits(), F.binary_cross_entropy_with_logits, x, np.array([[1.0, 0.0, 1.0]]))


DIFFERENCES = [
    (MSE, {}, F.mse_loss),
    (L1, {}, F.l1_loss),
    (SmoothL1, {"beta": 0.7}, F.smooth_l1_loss),
    (SmoothL1, {"beta": 0.0}, F.smooth_l1_loss),
    (Huber, {"delta": 0.6}, F.huber_loss),
]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (4,)])
@pytest.mark.parametrize(("kind", "options", "function"), DIFFERENCES)
def test_losses_of_differences(kind, options, function, shape, reduction) -> None:
    check(
        kind(reduction=reduction, **options),
        lambda x, y: function(x, y, reduction=reduction, **options),
        random.standard_normal(shape),
        random.standard_normal(shape),
    )


@pytest.mark.parametrize(
    ("kind", "options", "function"),
    [
        (L1, {}, F.l1_loss),
        (SmoothL1, {"beta": 0.5}, F.smooth_l1_loss),
        (SmoothL1, {"beta": 0.0}, F.smooth_l1_loss),
        (Huber, {"delta": 0.5}, F.huber_loss),
    ],
)
def test_the_kinks_of_differences(kind, options, function) -> None:
    """At 0 and where one branch meets the other, on both sides."""
    difference = np.array([0, 0.5, -0.5, 0.25, 3, -3])
    check(
        kind(reduction="none", **options),
        lambda x, y: function(x, y, reduction="none", **options),
        difference,
        np.zeros(6),
    )


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(label_smoothing=0.1), NLL()])
def test_the_mean_over_more_samples_than_float16_can_count(loss: Loss) -> None:
    """65,504 is the largest float16; PyTorch's own mean ends in 0 or infinity here."""
    samples = 70_000
    x = np.full((samples, 2), -np.log(2), np.float16)
    model = forward((samples, 2), np.float16)
    result, _ = attach_loss(model.graph, loss, model.graph.outputs[0])
    session = ort.InferenceSession(with_gradient(model, result).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": x, "labels": np.zeros(samples, np.int64), "seed": np.array(1, np.float16)}
    (value,) = session.run([result.name], feeds)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-3)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div(reduction: str, log_target: bool) -> None:
    x = np.log(random.dirichlet(np.ones(4), 5))
    y = random.dirichlet(np.ones(4), 5)
    y[0] = [0, 0.5, 0.5, 0]
    check(
        KLDivergence(reduction=reduction, log_target=log_target),
        lambda x, y: F.kl_div(x, y, reduction=reduction, log_target=log_target),
        x,
        np.log(y + 1e-3) if log_target else y,
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 2e-2), (np.float64, 1e-10)])
def test_other_float_types(dtype: type, tolerance: float) -> None:
    x, labels = LOGITS["matrix"]
    check(CrossEntropy(), F.cross_entropy, x, labels, dtype=dtype, tolerance=tolerance)
    smooth = CrossEntropy(label_smoothing=0.1)
    check(smooth, lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), x, labels, dtype=dtype, tolerance=tolerance)
    for kind, options, function in DIFFERENCES:
        check(
            kind(**options),
            lambda x, y, function=function, options=options: function(x, y, **options),
            x,
            random.standard_normal(x.shape),
            dtype=dtype,
            tolerance=tolerance,
        )


def loss_model(inputs: str, body: str) -> ir.Model:
    return ir.from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 26]> own ({inputs}) => (float loss) {{ {body} }}'
        )
    )


def test_a_loss_of_ones_own() -> None:
    model = forward((3, 2))
    own = loss_model(
        "float[3, 2] y, float[3, 2] x, float[2] scale",
        "d = Sub (y, scale) e = Mul (d, x) s = Mul (e, e) loss = ReduceMean <keepdims = 0> (s)",
    )
    result, labels = attach_loss_model(model.graph, own)
    assert [label.name for label in labels] == ["scale"]
    session = ort.InferenceSession(with_gradient(model, result).SerializeToString(), providers=["CPUExecutionProvider"])
    x, scale = random.standard_normal((3, 2)), random.standard_normal(2)
    tensor = torch.tensor(x, requires_grad=True)
    value = (((tensor - torch.tensor(scale)) * tensor) ** 2).mean()
    (gradient,) = torch.autograd.grad(value, tensor)
    feeds = {"x": x.astype(np.float32), "scale": scale.astype(np.float32), "seed": np.array(1, np.float32)}
    actual = session.run(None, feeds)
    np.testing.assert_allclose(actual[0], value.item(), rtol=1e-5)
    np.testing.assert_allclose(actual[1], gradient.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "body", "message"),
    [
        ("float[3, 2] prediction", "loss = ReduceMean <keepdims = 0> (prediction)", "No input of the loss model"),
        ("double[3, 2] y", "z = Cast <to = 1> (y) loss = ReduceMean <keepdims = 0> (z)", "takes 'y' as DOUBLE"),
    ],
)
def test_a_loss_model_that_does_not_fit_is_refused(inputs: str, body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attach_loss_model(forward((3, 2)).graph, loss_model(inputs, body))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_have_names(name: str) -> None:
    assert isinstance(resolve_loss(name), LOSSES[name])
    assert resolve_loss(name) == resolve_loss(resolve_loss(name))


def test_pytorchs_spelling_is_understood() -> None:
    assert resolve_loss("mse_loss") == MSE()
    assert resolve_loss("bce_with_logits") == BinaryCrossEntropyWithLogits()
    assert resolve_loss("cross_entropy", label_smoothing=0.1) == CrossEntropy(label_smoothing=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resolve_loss("crossentropy"), "nearest: cross_entropy"),
        (lambda: resolve_loss("mse", label_smoothing=1), "no option 'label_smoothing'"),
        (lambda: CrossEntropy(reduction="average"), "reduction is one of"),
        (lambda: CrossEntropy(label_smoothing=2.0), "between 0 and 1"),
        (lambda: Huber(delta=0.0), "positive"),
        (lambda: CrossEntropy(label_smoothing="much"), "label_smoothing takes a value of type float, not 'much'"),
        (lambda: KLDivergence(log_target=1), "log_target takes a value of type bool, not 1"),
    ],
)
def test_wrong_names_and_options_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
