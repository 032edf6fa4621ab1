"""The operators of ai.onnx.ml: ONNX Runtime's gradients in float32 against PyTorch's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.registry import NonDifferentiable, Zero
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import assert_close, joint_graph, run_runtime

Formula = Callable[..., torch.Tensor]


def check(
    op_type: str,
    inputs: list[np.ndarray],
    formula: Formula,
    *,
    output: int = 0,
    outputs: int = 1,
    second_order: bool = True,
    **attributes: Any,
) -> None:
    """Hold that the output numbered *output* is the formula, and its gradient and the gradient's own are PyTorch's."""
    floats = [index for index, array in enumerate(inputs) if array.dtype.kind == "f"]
    tensors = [torch.tensor(array, requires_grad=index in floats) for index, array in enumerate(inputs)]
    result = formula(*tensors)
    random = np.random.default_rng(7)
    seed = random.standard_normal(result.shape)
    direction = [random.standard_normal(inputs[index].shape) for index in floats]
    wanted = [tensors[index] for index in floats]
    cotangent = torch.tensor(seed, requires_grad=True)
    gradients = torch.autograd.grad(result, wanted, cotangent, create_graph=True)
    slope = sum((g * torch.tensor(d)).sum() for g, d in zip(gradients, direction, strict=True))
    second = torch.autograd.grad(slope, [*wanted, cotangent], allow_unused=True, materialize_grads=True)

    for symbolic in (False, True):
        forward = _model(op_type, inputs, attributes, outputs, output, symbolic=symbolic)
        feeds = {f"x{i}": a.astype(np.float32) if i in floats else a for i, a in enumerate(inputs)}
        (actual,) = run_runtime(forward, feeds)
        assert actual.dtype == np.float32
        assert actual.shape == result.shape
        assert_close(
            actual, result.detach().numpy(), 2e-3 if attributes.get("post_transform") == "PROBIT" else 1e-5, "y"
        )

        names = [f"x{index}" for index in floats]
        first = joint_graph(forward, names, BUILTIN_RULES)
        feeds[f"y{output}.grad_output"] = seed.astype(np.float32)
        for name, gradient, expected in zip(names, run_runtime(first, feeds), gradients, strict=True):
            assert gradient.shape == expected.shape
            assert_close(gradient, expected.detach().numpy(), _tolerance(attributes), f"gradient of {name}")
        if second_order:
            seeds = {f"{n}.grad.grad_output": d.astype(np.float32) for n, d in zip(names, direction, strict=True)}
            linear = not any(np.any(each.numpy()) for each in second[:-1])
            asked = [*([] if linear else names), f"y{output}.grad_output"]
            again = joint_graph(first, asked, BUILTIN_RULES, suffix=".grad.grad")
            expected_second = second[-1:] if linear else second
            for name, gradient, expected in zip(
                asked, run_runtime(again, {**feeds, **seeds}), expected_second, strict=True
            ):
                assert_close(gradient, expected.numpy(), 10 * _tolerance(attributes), f"second derivative, {name}")


def _tolerance(attributes: dict[str, Any]) -> float:
    """The runtime's PROBIT is an approximation, of which the gradient is computed."""
    return 2e-3 if attributes.get("post_transform") == "PROBIT" else 1e-5


def _model(
    op_type: str, inputs: list[np.ndarray], attributes: dict[str, Any], outputs: int, output: int, *, symbolic: bool
) -> onnx.ModelProto:
    node = onnx.helper.make_node(
        op_type,
        [f"x{index}" for index in range(len(inputs))],
        [f"y{index}" for index in range(outputs)],
        name="node",
        domain="ai.onnx.ml",
        **attributes,
    )
    graph = onnx.helper.make_graph(
        [node],
        "case",
        [
            onnx.helper.make_tensor_value_info(
                f"x{index}",
                onnx.TensorProto.FLOAT if array.dtype.kind == "f" else onnx.TensorProto.INT64,
                [*(f"s{size}" for size in array.shape[:-1]), array.shape[-1]] if symbolic else array.shape,
            )
            for index, array in enumerate(inputs)
        ],
        [onnx.helper.make_empty_tensor_value_info(f"y{output}")],
    )
    opsets = [onnx.helper.make_opsetid("", 26), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=13)
    inferred = ir.from_proto(model)
    InferShapes()(inferred)
    assert inferred.graph.outputs[0].shape is not None
    return ir.to_proto(inferred)


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


X = sample(3, 4)
WEIGHT, INTERCEPTS = sample(2, 4, seed=1), np.array([0.3, 0.1])
TRANSFORMS: dict[str, Formula] = {
    "NONE": lambda s: s,
    "LOGISTIC": torch.sigmoid,
    "SOFTMAX": lambda s: s.softmax(-1),
    "SOFTMAX_ZERO": lambda s: torch.where(s == 0, -torch.inf, s).softmax(-1),
    "PROBIT": lambda s: torch.special.ndtri(s),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_linear_regressor(transform: str) -> None:
    x, weight = (abs(X) / 4, abs(WEIGHT)) if transform == "PROBIT" else (X, WEIGHT)
    check(
        "LinearRegressor",
        [x],
        lambda x: TRANSFORMS[transform](x @ torch.tensor(weight).T + torch.tensor(INTERCEPTS)),
        coefficients=weight.ravel().tolist(),
        intercepts=INTERCEPTS.tolist(),
        targets=2,
        post_transform=transform,
    )


def test_linear_regressor_leaves_out_scores_of_zero() -> None:
    weight = np.concatenate([np.zeros((1, 4)), WEIGHT])
    check(
        "LinearRegressor",
        [X],
        lambda x: F.pad((x @ torch.tensor(WEIGHT).T).softmax(-1), (1, 0)),
        coefficients=weight.ravel().tolist(),
        intercepts=[0.0] * 3,
        targets=3,
        post_transform="SOFTMAX_ZERO",
    )


def test_linear_regressor_of_one_row() -> None:
    check(
        "LinearRegressor",
        [X[0]],
        lambda x: (x @ torch.tensor(WEIGHT[0])).reshape(1, 1),
        coefficients=WEIGHT[0].tolist(),
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("labels", ["ints", "strings"])
def test_linear_classifier(transform: str, labels: str) -> None:
    names = {"ints": [5, 7, 9], "strings": ["a", "b", "c"]}[labels]
    weight, intercepts = sample(3, 4, seed=1), sample(3)
    check(
        "LinearClassifier",
        [X],
        lambda x: TRANSFORMS[transform](x @ torch.tensor(weight).T + torch.tensor(intercepts)),
        output=1,
        outputs=2,
        coefficients=weight.ravel().tolist(),
        intercepts=intercepts.tolist(),
        post_transform=transform,
        **{f"classlabels_{labels}": names},
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_linear_classifier_of_one_row_for_two_labels(transform: str) -> None:
    def scores(x: torch.Tensor) -> torch.Tensor:
        s = x @ torch.tensor(WEIGHT[:1]).T + 0.3
        return torch.cat([torch.sigmoid(-s), torch.sigmoid(s)] if transform == "LOGISTIC" else [1 - s, s], -1)

    check(
        "LinearClassifier",
        [X],
        scores,
        output=1,
        outputs=2,
        coefficients=WEIGHT[0].tolist(),
        intercepts=[0.3],
        classlabels_ints=[0, 1],
        post_transform=transform,
    )


def test_what_linear_classifiers_refuse() -> None:
    attributes = {"coefficients": [1.0] * 4, "intercepts": [0.0], "classlabels_ints": [0, 1]}
    model = _model("LinearClassifier", [X], {**attributes, "post_transform": "PROBIT"}, 2, 1, symbolic=False)
    with pytest.raises(UnsupportedError, match="not defined"):
        joint_graph(model, ["x0"], BUILTIN_RULES)
    wide = _model("LinearRegressor", [X], {"coefficients": [1.0] * 4, "post_transform": "ODD"}, 1, 0, symbolic=False)
    with pytest.raises(UnsupportedError, match="no post_transform 'ODD'"):
        joint_graph(wide, ["x0"], BUILTIN_RULES)


@pytest.mark.parametrize("width", [1, 4])
def test_scaler(width: int) -> None:
    offset, scale = sample(width), sample(width, seed=1)
    function = lambda x: (x - torch.tensor(offset)) * torch.tensor(scale)  # noqa: E731
    check("Scaler", [X], function, offset=offset.tolist(), scale=scale.tolist())


NORMS: dict[str, Formula] = {
    "MAX": lambda x: x.amax(-1, keepdim=True),
    "L1": lambda x: x.abs().sum(-1, keepdim=True),
    "L2": lambda x: (x * x).sum(-1, keepdim=True).sqrt(),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("x", [X, X[0]], ids=["rows", "one row"])
def test_normalizer(norm: str, x: np.ndarray) -> None:
    check("Normalizer", [x], lambda x: x / NORMS[norm](x), norm=norm)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_that_are_not_normalized(norm: str) -> None:
    """A row of zeros stays as it is, and so does its cotangent; equal maxima share theirs."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:1], x[1:] / NORMS[norm](x[1:])])

    x = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, -1.0]])
    check("Normalizer", [x], function, norm=norm, second_order=norm == "L2")


@pytest.mark.parametrize("replaced", [2.0, float("nan")])
def test_imputer(replaced: float) -> None:
    x = sample(3, 2)
    x[1, 0] = x[2, 1] = replaced
    missing = torch.tensor([[False, False], [True, False], [False, True]])
    check(
        "Imputer",
        [x],
        lambda x: torch.where(missing, torch.tensor([7.0, 8.0], dtype=x.dtype), x),
        imputed_value_floats=[7.0, 8.0],
        replaced_value_float=replaced,
    )


def test_feature_vectorizer() -> None:
    """Inputs are cropped or padded to the widths that are declared."""
    check(
        "FeatureVectorizer",
        [X, sample(3, 2), sample(3, 3)],
        lambda a, b, c: torch.cat([a[:, :3], F.pad(b, (0, 1)), c], 1),
        inputdimensions=[3, 3, 3],
    )


@pytest.mark.parametrize("x", [X, sample(2, 3, 4), X[0]], ids=["rows", "more axes", "one row"])
def test_array_feature_extractor(x: np.ndarray) -> None:
    def function(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        y = x[..., positions[0]]
        return y.unsqueeze(0) if y.ndim == 1 else y

    check("ArrayFeatureExtractor", [x, np.array([[1, 3, 1]])], function)


VECTORS, WEIGHTS = sample(5, 4, seed=2), sample(5, seed=3)
KERNELS: dict[str, Formula] = {
    "LINEAR": lambda x, v: x @ v.T,
    "POLY": lambda x, v: (0.3 * x @ v.T + 0.2) ** 3,
    "RBF": lambda x, v: torch.exp(-0.3 * (x[:, None] - v).square().sum(-1)),
    "SIGMOID": lambda x, v: torch.tanh(0.3 * x @ v.T + 0.2),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_svm_regressor(kernel: str) -> None:
    check(
        "SVMRegressor",
        [X],
        lambda x: (KERNELS[kernel](x, torch.tensor(VECTORS)) @ torch.tensor(WEIGHTS))[:, None] + 0.7,
        kernel_type=kernel,
        kernel_params=[0.3, 0.2, 3.0],
        support_vectors=VECTORS.ravel().tolist(),
        coefficients=WEIGHTS.tolist(),
        n_supports=5,
        rho=[0.7],
    )


def test_svm_regressor_without_support_vectors() -> None:
    check(
        "SVMRegressor",
        [X],
        lambda x: (x @ torch.tensor(WEIGHT[0]))[:, None] + 0.7,
        coefficients=WEIGHT[0].tolist(),
        rho=[0.7],
        kernel_params=[0.0, 0.0, 0.0],
    )


def test_svm_of_one_class_gives_signs() -> None:
    attributes = {"coefficients": WEIGHT[0].tolist(), "rho": [0.0], "one_class": 1, "kernel_params": [0.0, 0.0, 0.0]}
    joint = joint_graph(_model("SVMRegressor", [X], attributes, 1, 0, symbolic=False), ["x0"], BUILTIN_RULES)
    feeds = {"x0": X.astype(np.float32), "y0.grad_output": np.ones((3, 1), np.float32)}
    np.testing.assert_array_equal(run_runtime(joint, feeds)[0], np.zeros_like(X))


def test_every_operator_is_known() -> None:
    entries = {op_type: entry for domain, op_type, entry in BUILTIN_RULES if domain == "ai.onnx.ml"}
    schemas = {s.name for s in onnx.defs.get_all_schemas() if s.domain == "ai.onnx.ml" and not s.deprecated}
    assert schemas <= set(entries)
    assert isinstance(entries["TreeEnsembleRegressor"], Zero)
    assert isinstance(entries["ZipMap"], NonDifferentiable)
