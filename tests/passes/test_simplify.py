"""Simplify: the simplifications together reach what none reaches alone."""

from __future__ import annotations

import numpy as np

from onnxgrad.passes.simplify import Simplify

from .running import check_pass, only, operators, parse


def test_simplifications_enable_each_other() -> None:
    model = parse(
        """g (float[n,3] x) => (float[n,4] y)
        <float one = {1}, int64[2] s = {3, 4}, int64[1] ax = {0}, float two = {2}, float half = {0.5}> {
            t = Transpose (w)  u = Unsqueeze (t, ax)  v = Squeeze (u, ax)  r = Mul (v, one)
            h = MatMul (x, r)
            a = Mul (h, two)  b = Identity (a)  c = Mul (b, half)  d = Neg (c)  y = Neg (d)
        }""",
        initializers={"w": np.arange(12, dtype=np.float32).reshape(4, 3)},
    )
    assert check_pass(Simplify(protected=["w"]), model, {"x": np.ones((2, 3), np.float32)})
    assert operators(model) == ["Gemm"]
    assert only(model, "Gemm").inputs[1] is model.graph.initializers["w"]
    assert model.graph.outputs[0].name == "y"
