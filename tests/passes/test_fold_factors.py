"""FoldFactors: constant factors of products go into alpha."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.fold_factors import FoldFactors

from .running import check_pass, only, operators, parse

FEEDS = {
    "a": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": np.arange(-6, 6, dtype=np.float32).reshape(3, 4),
    "s": np.array(3, dtype=np.float32),
}


def text(body: str, shape: str = "4,4") -> str:
    constants = "<float half = {0.5}, float[1,1,1] one = {3.0}, float[4] c = {1, 2, 3, 4}, int64[2] flat = {2, 8}>"
    return f"g (float[4,3] a, float[3,4] b, float s) => (float[{shape}] y) {constants} {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "shape", "alpha", "left"),
    [
        ("m = Gemm (a, b)  y = Mul (m, half)", "4,4", 0.5, ["Gemm"]),
        ("m = Gemm <alpha = 2.0, beta = 3.0> (a, b)  y = Mul (half, m)", "4,4", 1.0, ["Gemm"]),
        ("m = Gemm (a, b)  r = Reshape (m, flat)  y = Mul (r, half)", "2,8", 0.5, ["Gemm", "Reshape"]),
        ("m = Gemm (a, b)  h = Mul (m, half)  y = Mul (h, half)", "4,4", 0.25, ["Gemm"]),
    ],
)
def test_factors_become_alpha(body: str, shape: str, alpha: float, left: list[str]) -> None:
    model = parse(text(body, shape))
    assert check_pass(FoldFactors(), model, FEEDS, rtol=1e-6)
    assert operators(model) == left
    assert only(model, "Gemm").attributes["alpha"].as_float() == alpha


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("m = Gemm (a, b, c)  y = Mul (m, half)", "4,4"),
        ("m = Gemm (a, b)  y = Mul (m, s)", "4,4"),
        ("m = Gemm (a, b)  h = Mul (m, half)  y = Add (h, m)", "4,4"),
        ("m = Gemm (a, b)  y = Mul (m, one)", "1,4,4"),
        ("m = Gemm (a, b)  t = Relu (m)  y = Mul (t, half)", "4,4"),
    ],
)
def test_what_alpha_cannot_express_stays(body: str, shape: str) -> None:
    assert not check_pass(FoldFactors(), parse(text(body, shape)), FEEDS)
