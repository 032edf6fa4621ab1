"""RaiseSoftmax: an exponential over its sum becomes the operator."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.raise_softmax import RaiseSoftmax

from .running import check_pass, only, operators, parse

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32) * 10


def text(body: str) -> str:
    constants = "<int64[1] last = {-1}, int64[1] two = {2}, int64[1] one = {1}>"
    return f"g (float[2,n,4] x) => (float[2,n,4] y) {constants} {{ {body} }}"


def test_softmax_is_raised() -> None:
    model = parse(text("m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, two)  y = Div (e, s)"))
    assert check_pass(RaiseSoftmax(), model, {"x": X}, rtol=1e-6)
    assert operators(model) == ["Softmax"]
    assert only(model, "Softmax").attributes["axis"].as_int() == 2


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp (x)  s = ReduceSum (e, last)  y = Div (e, s)",
        "m = ReduceMax (x, one)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, last)  y = Div (e, s)",
        "m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e)  y = Div (e, s)",
        "m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, last)  z = Div (e, s)  y = Add (z, s)",
        "m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, last)  z = Div (e, s)  y = Add (z, e)",
    ],
)
def test_what_is_no_softmax_or_is_read_inside_stays(body: str) -> None:
    assert not check_pass(RaiseSoftmax(), parse(text(body)), {"x": X / 10})


def test_protected_values_stay() -> None:
    body = "m = ReduceMax (x, last)  d = Sub (x, m)  e = Exp (d)  s = ReduceSum (e, two)  y = Div (e, s)"
    assert not check_pass(RaiseSoftmax(protected=["d"]), parse(text(body)), {"x": X})
