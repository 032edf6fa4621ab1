"""Stops, scales, straight-through nodes, frozen parameters, retained gradients: against the same in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxgrad
from tests.compiler.forward_models import mlp, parse, random
from tests.transforms.running import run

MODEL = parse(
    """g (float[N, 4] x) => (float[N, 4] y) {
        [first] a = Mul (x, "layer1.w")
        [act] h = Tanh (a)
        [rounding] r = Round (h)
        [second] b = Mul (h, "layer2.w")
        [out] y = Add (b, r)
    }""",
    {"layer1.w": random(4, seed=1), "layer2.w": random(4, seed=2)},
)
X, SEED = random(3, 4, seed=5) * 3, random(3, 4, seed=6)
NAMES = ["x", "layer1.w", "layer2.w"]


class Scaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor, None]:
        return dys[0] * ctx.factor, None


def torch_gradients(at_h: Callable[[torch.Tensor], torch.Tensor], rounding: Callable[..., torch.Tensor]) -> list[Any]:
    x, first, second = (torch.tensor(each, requires_grad=True) for each in (X, random(4, seed=1), random(4, seed=2)))
    h = at_h(torch.tanh(x * first))
    y = h * second + rounding(h)
    return list(torch.autograd.grad(y, [x, first, second], torch.tensor(SEED), allow_unused=True))


def gradients(**options: Any) -> dict[str, np.ndarray]:
    return onnxgrad.compile(MODEL, **{"wrt": NAMES, **options}).session().grad({"x": X}, {"y": SEED})


def same(actual: dict[str, np.ndarray], expected: list[Any]) -> None:
    for name, gradient in zip(NAMES, expected, strict=True):
        if gradient is None:
            assert name not in actual
        else:
            np.testing.assert_allclose(actual[name], gradient.numpy(), rtol=1e-5, atol=1e-6)


def test_stop_gradient() -> None:
    same(gradients(stop_gradient="h", allow_unused=True), torch_gradients(lambda h: h.detach(), torch.round))


@pytest.mark.parametrize("factor", [-1.0, 0.25, 0.0])
def test_scaled_and_reversed_gradients(factor: float) -> None:
    same(gradients(scale_gradient={"h": factor}), torch_gradients(lambda h: Scaled.apply(h, factor), torch.round))


@pytest.mark.parametrize("name", ["rounding", "r", "round*"])
def test_straight_through(name: str) -> None:
    same(gradients(straight_through=name), torch_gradients(lambda h: h, lambda h: h + (torch.round(h) - h).detach()))


def test_frozen_parameters() -> None:
    frozen = onnxgrad.compile(MODEL, frozen="layer1.*")
    assert [port.of for port in frozen.signature.outputs_of("gradient")] == ["layer2.w"]
    assert "layer1.w" not in frozen.parameters
    free = gradients(frozen="layer1.*")
    assert free.keys() == {"x", "layer2.w"}


def test_retained_gradients_come_beside_the_others() -> None:
    found = onnxgrad.compile(MODEL, retain_grad=["h", "b"]).session().grad({"x": X}, {"y": SEED})
    assert found.keys() == {"layer1.w", "layer2.w", "h", "b"}
    np.testing.assert_allclose(found["h"], SEED * random(4, seed=2), rtol=1e-6)
    np.testing.assert_allclose(found["b"], SEED)


def test_marks_survive_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "marked.onnx"
    onnxgrad.mark(MODEL, stop_gradient="a", scale_gradient={"b": -2.0}, straight_through="rounding", to=path)
    onnx.checker.check_model(str(path), full_check=True)
    plain, marked = run(MODEL, {"x": X})["y"], run(onnx.load(path), {"x": X})["y"]
    np.testing.assert_array_equal(plain, marked)

    session = onnxgrad.compile(path, wrt=["h", "layer2.w"]).session()
    found = session.grad({"x": X}, {"y": SEED})
    h = np.tanh(X * random(4, seed=1))
    np.testing.assert_allclose(found["layer2.w"], -2 * (SEED * h).sum(0), rtol=1e-5)
    np.testing.assert_allclose(found["h"], SEED - 2 * SEED * random(4, seed=2), rtol=1e-5)
    with pytest.raises(onnxgrad.UnsupportedError, match=r"(?s)'x'.*stop the gradient"):
        onnxgrad.compile(path, wrt=["x"])
    assert "layer1.w" in onnxgrad.compile(path).unused


def test_a_stop_behind_a_weight_survives_in_a_file() -> None:
    marked = onnxgrad.mark(MODEL, stop_gradient="layer1.w")
    assert onnxgrad.compile(marked).unused == ("layer1.w",)


def test_marks_hold_for_transformations_and_a_second_derivative() -> None:
    marked = onnxgrad.mark(MODEL, scale_gradient={"h": -1.0})
    feeds = {"x": X, "y.grad_output": SEED, "x.tangent": random(3, 4, seed=8)}
    plain, turned = (run(onnxgrad.vjp(model), feeds)["x.grad"] for model in (MODEL, marked))
    np.testing.assert_allclose(turned, -plain, rtol=1e-6)
    again = onnxgrad.jvp(onnxgrad.vjp(marked), wrt=["x"], outputs=["x.grad"])
    once = onnxgrad.jvp(onnxgrad.vjp(MODEL), wrt=["x"], outputs=["x.grad"])
    np.testing.assert_allclose(
        run(again, feeds)["x.grad.tangent"], -run(once, feeds)["x.grad.tangent"], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_gradient": "nothing"}, r"stop_gradient: nothing in the model matches 'nothing'"),
        ({"scale_gradient": {"h": float("nan")}}, r"scale_gradient: the factor of 'h' is a finite number, not nan"),
        ({"straight_through": "layer9"}, r"straight_through: no node of the model matches 'layer9'"),
        ({"frozen": "layer3.*"}, r"`frozen`: no member of `wrt` matches 'layer3.\*'"),
        ({"frozen": "*"}, r"`frozen` matches every member of `wrt`"),
        ({"retain_grad": "hh"}, r"`retain_grad`: nothing in the model matches 'hh'; "),
        ({"wrt": ["x"], "stop_gradient": "y*"}, r"stop the gradient|does not depend|nothing|'x'"),
    ],
)
def test_names_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxgrad.Error, match=message):
        onnxgrad.compile(MODEL, **options)


def test_straight_through_needs_one_shape() -> None:
    with pytest.raises(onnxgrad.InputError, match=r"straight_through: the output of Gemm node 'fc1' is .*alike"):
        onnxgrad.compile(mlp(), straight_through="fc1")
    with pytest.raises(onnxgrad.InputError, match=r"nothing to mark"):
        onnxgrad.mark(mlp())
