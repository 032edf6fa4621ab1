"""RaiseGroupNormalization: what PyTorch's exporters write for a group normalization becomes the operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import onnxgrad
from onnxgrad.passes.raise_group_normalization import RaiseGroupNormalization

from .running import check_pass, only, operators, parse

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 6, 4, 3)).astype(np.float32) * 2 + 3
WEIGHTS = {
    "w": rng.uniform(0.5, 2, (6, 1, 1)).astype(np.float32),
    "b": rng.standard_normal((1, 6, 1, 1)).astype(np.float32),
    "ones": np.ones(3, np.float32),
    "zeros": np.zeros(3, np.float32),
}
CONSTANTS = "<int64[3] grouped = {0, 3, -1}, int64[4] whole = {2, 6, 4, 3}, float two = {2}>"
NORMALIZED = (
    "g = Reshape (x, grouped)  i = InstanceNormalization <epsilon = 0.01> (g, ones, zeros)  n = Reshape (i, whole)"
)


def model_of(body: str, weights: dict[str, np.ndarray] = WEIGHTS, dtype: str = "float") -> object:
    return parse(f"m ({dtype}[2,6,4,3] x) => ({dtype}[2,6,4,3] y) {CONSTANTS} {{ {body} }}", initializers=weights)


@pytest.mark.parametrize(
    "affine", ["s = Mul (n, w)  y = Add (s, b)", "s = Mul (w, n)  y = Add (b, s)", "s = Mul (n, b)  y = Add (s, w)"]
)
def test_group_normalization_is_raised(affine: str) -> None:
    model = model_of(f"{NORMALIZED}  {affine}")
    assert check_pass(RaiseGroupNormalization(), model, {"x": X}, rtol=1e-4, atol=1e-5)
    assert sorted(operators(model)) == ["GroupNormalization", "Reshape", "Reshape"]
    node = only(model, "GroupNormalization")
    assert node.attributes["num_groups"].as_int() == 3
    assert node.attributes["epsilon"].as_float() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        (f"{NORMALIZED}  s = Mul (n, w)  t = Add (s, b)  y = Add (t, n)", {}),
        (f"{NORMALIZED}  s = Mul (n, w)  t = Add (s, b)  y = Add (t, s)", {}),
        (f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)", {"ones": np.float32([1, 1, 2])}),
        (f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)", {"zeros": np.float32([0, 1, 0])}),
        (f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)", {"w": np.ones((6, 4, 1), np.float32)}),
        (f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)", {"b": np.ones(3, np.float32)}),
        (f"{NORMALIZED.replace('{0, 3', '{6, 3')}  s = Mul (n, two)  y = Add (s, b)", {}),
    ],
)
def test_what_is_no_group_normalization_stays(body: str, weights: dict[str, np.ndarray]) -> None:
    assert not RaiseGroupNormalization().call(model_of(body, {**WEIGHTS, **weights})).modified


@pytest.mark.parametrize("name", ["n", "s", "ones", "zeros"])
def test_what_is_named_stays(name: str) -> None:
    model = model_of(f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)")
    assert not RaiseGroupNormalization([name]).call(model).modified


def test_groups_of_another_batch_stay() -> None:
    body = f"{NORMALIZED}  s = Mul (n, w)  y = Add (s, b)"
    model = parse(
        "m (float[2,6,4,3] x) => (float[2,6,4,3] y) <int64[3] grouped = {4, 3, -1}, int64[4] whole = {2, 6, 4, 3}>"
        f"{{ {body} }}",
        initializers=WEIGHTS,
    )
    assert not RaiseGroupNormalization().call(model).modified


@pytest.mark.parametrize("batch", ["batch", 2])
@pytest.mark.parametrize("offset", [0, 100])
def test_gradients_are_those_of_pytorch(batch: int | str, offset: float) -> None:
    """Also of an input far from zero. The ones and zeros are no parameters."""
    x, dy = X + np.float32(offset), rng.standard_normal(X.shape).astype(np.float32)
    model = parse(
        f"m (float[{batch},6,4,3] x) => (float[{batch},6,4,3] y)"
        "<int64[3] grouped = {0, 3, -1}, int64[4] whole = {0, 6, 4, 3}>"
        f"{{ {NORMALIZED}  s = Mul (n, w)  y = Add (s, b) }}",
        initializers=WEIGHTS,
    )
    parameters = onnxgrad.compile(model.clone(), wrt="parameters").session().parameters
    assert sorted(parameters) == ["b", "w"]
    program = onnxgrad.compile(model, wrt=["x", "w", "b"])
    assert "InstanceNormalization" not in {node.op_type for node in program.model.graph}
    outputs, gradients = program.session().value_and_grad({"x": x}, {"y": dy})
    tensors = {name: torch.tensor(array.astype(np.float64), requires_grad=True) for name, array in WEIGHTS.items()}
    tensors["x"] = torch.tensor(x.astype(np.float64), requires_grad=True)
    y = F.group_norm(tensors["x"], 3, tensors["w"].reshape(-1), tensors["b"].reshape(-1), 0.01)
    expected = torch.autograd.grad(y, [tensors[name] for name in gradients], torch.tensor(dy.astype(np.float64)))
    tolerance = 1e-5 if offset == 0 else 5e-5  # the input alone is rounded by 4e-6 of its deviation
    np.testing.assert_allclose(outputs["y"], y.detach().numpy(), rtol=tolerance, atol=tolerance)
    for (name, actual), reference in zip(gradients.items(), expected, strict=True):
        scale = float(reference.abs().max())
        np.testing.assert_allclose(actual / scale, reference / scale, atol=tolerance, err_msg=name)
