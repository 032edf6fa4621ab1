"""RaiseLayerNormalization: what exporters write for a layer normalization becomes the operator."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.raise_layer_normalization import RaiseLayerNormalization

from .running import check_pass, only, operators, parse

rng = np.random.default_rng(0)
X = rng.standard_normal((2, 3, 4)).astype(np.float32)
WEIGHTS = {"w": rng.standard_normal(4).astype(np.float32), "b": rng.standard_normal(4).astype(np.float32)}

CONSTANTS = """<int64[1] last = {-1}, int64[1] ax2 = {2},
    int64[1] first = {1}, int64[2] both = {1, 2}, float eps = {1e-5},
    float two = {2}, float one = {1}, float half = {0.5}, float mhalf = {-0.5}>"""

START = "m = ReduceMean (x, last)  d = Sub (x, m)  q = Pow (d, two)  v = ReduceMean (q, last)  a = Add (v, eps)"
AFFINE = "n = Div (d, s)  h = Mul (n, w)  y = Add (h, b)"


@pytest.mark.parametrize(
    "body",
    [
        f"{START}  s = Sqrt (a)  {AFFINE}",
        f"{START}  s = Sqrt (a)  n = Div (d, s)  h = Mul (w, n)  y = Add (b, h)",
        f"{START.replace('Pow (d, two)', 'Mul (d, d)')}  s = Sqrt (a)  {AFFINE}",
        f"{START.replace('Add (v, eps)', 'Add (eps, v)')}  s = Sqrt (a)  {AFFINE}",
        f"{START}  s = Pow (a, half)  {AFFINE}",
        f"{START}  s = Sqrt (a)  r = Reciprocal (s)  n = Mul (d, r)  h = Mul (n, w)  y = Add (h, b)",
        f"{START}  s = Sqrt (a)  r = Div (one, s)  n = Mul (r, d)  h = Mul (n, w)  y = Add (h, b)",
        f"{START}  r = Pow (a, mhalf)  n = Mul (d, r)  h = Mul (n, w)  y = Add (h, b)",
        f"m = ReduceMean (x, ax2)  d = Sub (x, m)  d2 = Sub (x, m)  q = Mul (d2, d2)  v = ReduceMean (q, last)"
        f"  a = Add (v, eps)  s = Sqrt (a)  {AFFINE}",
        f"m = ReduceMean (x, ax2)  m2 = ReduceMean (x, last)  d = Sub (x, m)  d2 = Sub (x, m2)  q = Pow (d2, two)"
        f"  v = ReduceMean (q, last)  a = Add (v, eps)  s = Sqrt (a)  {AFFINE}",
    ],
)
def test_layer_normalization_is_raised(body: str) -> None:
    model = parse(f"g (float[k,3,4] x) => (float[k,3,4] y) {CONSTANTS} {{ {body} }}", initializers=WEIGHTS)
    assert check_pass(RaiseLayerNormalization(protected=["w", "b"]), model, {"x": X}, rtol=1e-4, atol=1e-6)
    assert operators(model) == ["LayerNormalization"]
    node = only(model, "LayerNormalization")
    assert [value.name for value in node.inputs if value is not None] == ["x", "w", "b"]
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)


def test_several_axes_and_no_bias() -> None:
    body = f"{START}  s = Sqrt (a)  n = Div (d, s)  y = Mul (n, w)".replace("last", "both")
    model = parse(
        f"g (float[k,3,4] x) => (float[k,3,4] y) {CONSTANTS} {{ {body} }}",
        initializers={"w": rng.standard_normal((3, 4)).astype(np.float32)},
    )
    assert check_pass(RaiseLayerNormalization(), model, {"x": X}, rtol=1e-4, atol=1e-6)
    assert only(model, "LayerNormalization").attributes["axis"].as_int() == -2


@pytest.mark.parametrize(
    "body",
    [
        f"{START.replace('last', 'first')}  s = Sqrt (a)  {AFFINE}",
        f"{START}  s = Sqrt (a)  {AFFINE.replace('Div (d', 'Div (x')}",
        f"{START}  s = Sqrt (a)  n = Div (d, s)  h = Mul (n, b4)  y = Add (h, b)",
        f"{START.replace('Pow (d, two)', 'Pow (d, half)')}  s = Sqrt (a)  {AFFINE}",
        f"{START}  s = Sqrt (a)  n = Div (d, s)  h = Mul (n, w)  z = Add (h, b)  y = Add (z, v)",
        f"{START}  s = Sqrt (a)  n = Div (d, s)  h = Mul (n, w)  z = Add (h, b)  y = Add (z, n)",
        f"{START}  s = Sqrt (a)  n = Div (x, s)  h = Mul (n, w)  z = Add (h, b)  y = Add (z, d)",
    ],
)
def test_what_is_no_layer_normalization_or_is_read_inside_stays(body: str) -> None:
    weights = {**WEIGHTS, "b4": np.ones((3, 4), np.float32)}
    model = parse(f"g (float[2,3,4] x) => (float[2,3,4] y) {CONSTANTS} {{ {body} }}", initializers=weights)
    before = operators(model)
    assert not RaiseLayerNormalization().call(model).modified
    assert operators(model) == before


def test_bias_of_another_shape_stays_an_addition() -> None:
    model = parse(
        f"g (float[2,3,4] x, float[2,3,4] r) => (float[2,3,4] y) {CONSTANTS} "
        f"{{ {START}  s = Sqrt (a)  n = Div (d, s)  h = Mul (n, w)  y = Add (h, r) }}",
        initializers={"w": WEIGHTS["w"]},
    )
    assert check_pass(RaiseLayerNormalization(), model, {"x": X, "r": X}, rtol=1e-4, atol=1e-6)
    assert operators(model) == ["LayerNormalization", "Add"]


def test_float64_and_protected_values_stay() -> None:
    text = f"g (float[2,3,4] x) => (float[2,3,4] y) {CONSTANTS} {{ {START}  s = Sqrt (a)  {AFFINE} }}"
    model = parse(text, initializers=WEIGHTS)
    assert not check_pass(RaiseLayerNormalization(protected=["n"]), model, {"x": X})
    assert not check_pass(RaiseLayerNormalization(protected=["eps"]), model, {"x": X})
    double = parse(
        text.replace("float", "double"), initializers={name: w.astype(np.float64) for name, w in WEIGHTS.items()}
    )
    assert not check_pass(RaiseLayerNormalization(), double, {"x": X.astype(np.float64)})
