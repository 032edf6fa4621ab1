"""RaiseGelu: each way of writing a Gelu becomes the operator; what only resembles one stays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.raise_gelu import RaiseGelu

from .running import check_pass, only, operators, parse

X = np.linspace(-4, 4, 24, dtype=np.float32).reshape(2, 12)

CONSTANTS = """<float half = {0.5}, float one = {1}, float two = {2}, float three = {3}, float r2 = {1.4142135},
    float ir2 = {0.70710678}, float k = {0.044715}, float c = {0.7978845608}, float off = {0.71}>"""

ERF = "d = Div (x, r2)  e = Erf (d)  a = Add (e, one)"
TANH = "q = Pow (x, three)  p = Mul (q, k)  s = Add (x, p)  u = Mul (s, c)  t = Tanh (u)  a = Add (t, one)"


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (f"{ERF}  m = Mul (x, a)  y = Mul (m, half)", "none"),
        (f"{ERF}  m = Mul (x, half)  y = Mul (m, a)", "none"),
        (f"{ERF}  m = Mul (half, a)  y = Mul (x, m)", "none"),
        (f"{ERF}  m = Mul (x, a)  y = Div (m, two)", "none"),
        ("d = Mul (x, ir2)  e = Erf (d)  a = Add (one, e)  m = Mul (a, x)  y = Mul (half, m)", "none"),
        (f"{TANH}  m = Mul (x, half)  y = Mul (m, a)", "tanh"),
        (f"{TANH}  m = Mul (half, a)  y = Mul (m, x)", "tanh"),
        (
            """v = Mul (x, x)  q = Mul (v, x)  p = Mul (k, q)  s = Add (p, x)  u = Mul (c, s)
               t = Tanh (u)  a = Add (one, t)  m = Mul (half, x)  y = Mul (m, a)""",
            "tanh",
        ),
        (
            """z = Mul (x, c)  v = Mul (x, k)  w = Mul (v, x)  s = Add (one, w)  u = Mul (z, s)
               t = Tanh (u)  a = Add (one, t)  m = Mul (x, half)  y = Mul (m, a)""",
            "tanh",
        ),
    ],
)
def test_gelu_is_raised(body: str, form: str) -> None:
    model = parse(f"g (float[2,12] x) => (float[2,12] y) {CONSTANTS} {{ {body} }}")
    assert check_pass(RaiseGelu(), model, {"x": X}, rtol=1e-5, atol=1e-6)
    assert operators(model) == ["Gelu"]
    assert only(model, "Gelu").attributes["approximate"].as_string() == form


@pytest.mark.parametrize(
    "body",
    [
        "d = Mul (x, off)  e = Erf (d)  a = Add (e, one)  m = Mul (x, a)  y = Mul (m, half)",
        f"{ERF}  m = Mul (x, a)  y = Mul (m, off)",
        f"{ERF}  m = Mul (w, a)  y = Mul (m, half)",
        "d = Div (x, r2)  e = Erf (d)  a = Add (e, half)  m = Mul (x, a)  y = Mul (m, half)",
        f"{ERF}  m = Mul (x, a)  n = Mul (m, half)  y = Add (n, a)",
        f"{ERF}  m = Mul (x, a)  n = Mul (m, half)  y = Add (n, m)",
        f"{TANH.replace('three', 'two')}  m = Mul (x, half)  y = Mul (m, a)",
        f"{TANH.replace('Tanh', 'Erf')}  m = Mul (x, half)  y = Mul (m, a)",
        f"{TANH}  m = Mul (x, half)  n = Mul (m, a)  y = Sub (n, u)",
    ],
)
def test_what_is_no_gelu_or_is_read_inside_stays(body: str) -> None:
    model = parse(f"g (float[2,12] x, float[2,12] w) => (float[2,12] y) {CONSTANTS} {{ {body} }}")
    assert not check_pass(RaiseGelu(), model, {"x": X, "w": X})


def test_parameters_and_protected_values_stay() -> None:
    text = f"g (float[2,12] x) => (float[2,12] y) {CONSTANTS} {{ {ERF}  m = Mul (x, a)  y = Mul (m, half) }}"
    for name in ("half", "one", "m", "e"):
        assert not check_pass(RaiseGelu(protected=[name]), parse(text), {"x": X})


def test_float16_constants_are_recognized() -> None:
    model = parse(
        f"g (float16[2,12] x) => (float16[2,12] y) {{ {ERF}  m = Mul (x, a)  y = Mul (m, half) }}",
        initializers={
            name: np.array(number, np.float16) for name, number in {"r2": 2**0.5, "one": 1, "half": 0.5}.items()
        },
    )
    assert check_pass(RaiseGelu(), model, {"x": X.astype(np.float16)}, rtol=5e-3, atol=1e-3)
    assert operators(model) == ["Gelu"]
