"""Every transformation against `torch.func` in float64, on networks of all kinds."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch.func import hessian, jacrev, jvp, vjp
from torch.nn import functional

import onnxgrad

from ..compiler.forward_models import mlp as small_mlp
from ..compiler.forward_models import parse, random
from .modules import CASES, Case
from .running import relative_error, run

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def exact(case: Case, seed: int = 1) -> torch.Tensor:
    return case.sample(seed).double()


def cotangent(case: Case) -> torch.Tensor:
    shape = case.module(case.sample()).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@every_case
def test_jvp(case: Case) -> None:
    model = onnxgrad.jvp(case.exported)
    result = run(model, {"x": case.sample().numpy(), "x.tangent": case.sample(2).numpy()})

    value, tangent = jvp(case.in_float64(), (exact(case),), (exact(case, 2),))
    assert relative_error(result["y"], value.detach().numpy()) < 1e-5
    assert relative_error(result["y.tangent"], tangent.detach().numpy()) < 1e-5
    assert not [node for node in model.graph.node if "seed" in node.name], "no cotangent is left in it"


@every_case
def test_vjp_and_several_seeds_at_once(case: Case) -> None:
    dy = cotangent(case)
    expected = vjp(case.in_float64(), exact(case))[1](dy.double())[0].detach().numpy()

    one = run(onnxgrad.vjp(case.exported), {"x": case.sample().numpy(), "y.grad_output": dy.numpy()})
    many = onnxgrad.vjp(case.exported, num_seeds="rows")
    stacked = run(many, {"x": case.sample().numpy(), "y.grad_output": torch.stack([0 * dy, dy, -2 * dy]).numpy()})

    assert relative_error(one["x.grad"], expected) < 1e-5
    assert stacked["x.grad"].shape == (3, *case.shape)
    for row, factor in zip(stacked["x.grad"], (0, 1, -2), strict=True):
        assert relative_error(row, factor * expected) < 1e-5
    outside = [node.op_type for node in many.graph.node]
    heavy = [op for op in ("Gemm", "MatMul", "Conv", "Scan") if op in outside]
    assert heavy, "the forward part runs once, outside of the Scan over the seeds"


@every_case
def test_jacobian(case: Case) -> None:
    result = run(onnxgrad.jacobian(case.exported), {"x": case.sample().numpy()})
    expected = jacrev(case.in_float64())(exact(case)).detach().numpy()
    assert result["y.jacobian.x"].shape == expected.shape
    assert relative_error(result["y.jacobian.x"], expected) < 1e-5


def test_a_tall_jacobian_is_computed_by_columns() -> None:
    model = parse("g (float[2] x) => (float[6, 2] y) { z = Mul (w, x) y = Tanh (z) }", {"w": random(6, 2)})
    result = run(onnxgrad.jacobian(model), {"x": random(2, seed=3)})
    w, x = torch.tensor(random(6, 2)), torch.tensor(random(2, seed=3))
    assert relative_error(result["y.jacobian.x"], jacrev(lambda x: torch.tanh(w * x))(x).numpy()) < 1e-5
    assert [scan_body_inputs(node) for node in onnxgrad.jacobian(model).graph.node if node.op_type == "Scan"] == [[2]]


def scan_body_inputs(node: onnx.NodeProto) -> list[int]:
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    return [dim.dim_value for dim in body.input[0].type.tensor_type.shape.dim]


@every_case
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_second_order_of_a_loss(case: Case, loss: str) -> None:
    dy = cotangent(case)
    labels = dy if loss == "mse" else torch.zeros(dy.shape[:-1], dtype=torch.int64)
    if loss == "cross_entropy" and dy.ndim > 2:
        labels = torch.zeros((dy.shape[0], *dy.shape[2:]), dtype=torch.int64)
    module = case.in_float64()

    def of_prediction(y: torch.Tensor) -> torch.Tensor:
        if loss == "mse":
            return functional.mse_loss(y, labels.double())
        return functional.cross_entropy(y, labels)

    x, v = exact(case), exact(case, 2)
    feeds = {"x": case.sample().numpy(), "labels": labels.numpy(), "x.tangent": case.sample(2).numpy()}
    full = hessian(lambda x: of_prediction(module(x)))(x).detach()
    expected = torch.tensordot(full, v, v.ndim).numpy()

    assert relative_error(run(onnxgrad.hvp(case.exported, loss=loss), feeds)["x.hvp"], expected) < 1e-5
    gradient = run(onnxgrad.value_and_grad(case.exported, loss=loss), feeds)
    leaf = x.clone().requires_grad_()
    value = of_prediction(module(leaf))
    assert relative_error(gradient["loss"], value.detach().numpy()) < 1e-5
    assert relative_error(gradient["x.grad"], torch.autograd.grad(value, leaf)[0].numpy()) < 1e-5

    y, tangent = jvp(module, (x,), (v,))
    inner = hessian(of_prediction)(y.detach())
    product = vjp(module, x)[1](torch.tensordot(inner, tangent, tangent.ndim))[0]
    assert (
        relative_error(run(onnxgrad.ggnvp(case.exported, loss=loss), feeds)["x.ggnvp"], product.detach().numpy()) < 1e-5
    )

    if case.name in ("mlp", "lstm"):
        dense = run(onnxgrad.hessian(case.exported, loss=loss), feeds)["x.hessian.x"]
        assert relative_error(dense, full.numpy()) < 1e-5
        flat = dense.reshape(v.numel(), v.numel())
        assert relative_error(flat, flat.T) < 1e-5


@every_case
def test_transformations_compose(case: Case) -> None:
    """The gradient of <y, dy>, pushed forward, is the Hessian-vector product that reverse mode gives."""
    dy = cotangent(case)
    feeds = {"x": case.sample().numpy(), "y.grad_output": dy.numpy(), "x.tangent": case.sample(2).numpy()}
    pushed = onnxgrad.jvp(onnxgrad.vjp(case.exported), wrt=["x"], outputs=["x.grad"])
    module = case.in_float64()

    def weighted(x: torch.Tensor) -> torch.Tensor:
        return (module(x) * dy.double()).sum()

    expected = jvp(lambda x: torch.func.grad(weighted)(x), (exact(case),), (exact(case, 2),))[1]
    assert relative_error(run(pushed, feeds)["x.grad.tangent"], expected.detach().numpy()) < 1e-5


def test_third_order() -> None:
    model = parse("g (float[3] x) => (float y) { s = Sin (x) p = Mul (s, x) y = ReduceSum <keepdims = 0> (p) }")
    first = onnxgrad.value_and_grad(model)
    second = onnxgrad.vjp(first, outputs=["x.grad"], to=None)
    third = onnxgrad.jvp(second, wrt=["x"], outputs=["x.grad_1"])
    x, a, b = random(3), random(3, seed=1), random(3, seed=2)
    result = run(third, {"x": x, "x.grad.grad_output": a, "x.tangent": b})
    exact_x = x.astype(np.float64)
    assert relative_error(result["x.grad_1.tangent"], (-3 * np.sin(exact_x) - exact_x * np.cos(exact_x)) * a * b) < 1e-5


def test_with_respect_to_parameters_and_their_tangents() -> None:
    model = onnxgrad.jvp(small_mlp(), wrt="parameters")
    x = random(2, 4, seed=9)
    tangents = {f"{name}.tangent": random(*shape, seed=5) for name, shape in WEIGHT_SHAPES.items()}
    result = run(model, {"x": x, **tangents})

    def at(step: float) -> np.ndarray:
        moved = {name: weights()[name] + step * tangents[f"{name}.tangent"] for name in WEIGHT_SHAPES}
        hidden = np.tanh(x.astype(np.float64) @ moved["fc1.weight"].T + moved["fc1.bias"])
        return hidden @ moved["fc2.weight"].T + moved["fc2.bias"]

    assert relative_error(result["logits.tangent"], (at(1e-5) - at(-1e-5)) / 2e-5) < 1e-5


WEIGHT_SHAPES = {"fc1.weight": (5, 4), "fc1.bias": (5,), "fc2.weight": (3, 5), "fc2.bias": (3,)}


def weights() -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each).astype(np.float64) for each in small_mlp().graph.initializer}


def test_each_kind_of_model_is_given_as_it_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(small_mlp(), path)
    assert isinstance(onnxgrad.jvp(small_mlp()), onnx.ModelProto)
    assert isinstance(onnxgrad.jvp(ir.from_proto(small_mlp())), ir.Model)
    assert isinstance(onnxgrad.jvp(path), onnx.ModelProto)
    target = tmp_path / "jvp.onnx"
    assert onnxgrad.jvp(path, to=target) == target
    onnx.checker.check_model(str(target), full_check=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["jvp.onnx", "model.onnx"]


STEPS = parse("g (float[3] x) => (float[3] y) { y = Floor (x) }")
AFFINE = parse("g (float[3] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }")


@pytest.mark.parametrize(
    ("transform", "model", "options", "message"),
    [
        (onnxgrad.jvp, STEPS, {}, r"'x'"),
        (onnxgrad.vjp, STEPS, {}, r"(?s)'x'.*Floor"),
        (onnxgrad.jacobian, STEPS, {}, r"(?s)'x'"),
        (onnxgrad.hvp, AFFINE, {}, r"(?s)'x'"),
        (onnxgrad.value_and_grad, small_mlp(), {}, r"value_and_grad needs an output of one element, but 'logits'"),
        (onnxgrad.hessian, small_mlp(), {}, r"hessian needs an output of one element"),
        (onnxgrad.hvp, small_mlp(), {"wrt": "fc1.wieght"}, r"nothing in the model matches 'fc1.wieght'; nearest: fc1"),
        (onnxgrad.jvp, small_mlp(), {"outputs": "logit"}, r"`outputs`: nothing in the model matches 'logit'"),
        (onnxgrad.vjp, small_mlp(), {"num_seeds": 0}, r"`num_seeds` is .* at least 1, not 0"),
        (onnxgrad.ggnvp, small_mlp(), {"loss": "entropy"}, r"There is no loss 'entropy'"),
    ],
)
def test_what_cannot_be_transformed(
    transform: object, model: onnx.ModelProto, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    target = tmp_path / "result.onnx"
    target.write_bytes(b"as it was")
    with pytest.raises(onnxgrad.Error, match=message):
        transform(model, to=target, **options)  # type: ignore[operator]
    assert target.read_bytes() == b"as it was"
