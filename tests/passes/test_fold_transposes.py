"""FoldTransposes: transposes of matrices become flags of Gemm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.fold_transposes import FoldTransposes

from .running import check_pass, only, operators, parse

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("body", "shape", "flags"),
    [
        ("t = Transpose (b)  u = Transpose <perm = [1, 0]> (t)  y = MatMul (a, u)", "2,4", None),
        ("t = Transpose (v)  y = MatMul (a, t)", "2,2", (0, 1)),
        ("t = Transpose (a)  y = MatMul (t, v)", "3,3", (1, 0)),
        ("t = Transpose (b)  u = Transpose (a)  y = MatMul (t, u)", "4,2", (1, 1)),
        ("t = Transpose (v)  y = Gemm <alpha = 0.5, beta = 2.0> (a, t, c)", "2,2", (0, 1)),
        ("t = Transpose (b)  y = Gemm <transB = 1> (a, t)", "2,4", (0, 0)),
        ("m = MatMul (a, b)  y = Transpose (m)", "4,2", (1, 1)),
        ("m = Gemm <transB = 1, alpha = 0.25> (a, v)  y = Transpose (m)", "2,2", (0, 1)),
    ],
)
def test_transposes_become_flags(body: str, shape: str, flags: tuple[int, int] | None) -> None:
    model = parse(
        f"g (float[2,3] a, float[3,4] b, float[2,3] v) => (float[{shape}] y) <float[2] c = {{1, 2}}> {{ {body} }}"
    )
    assert check_pass(FoldTransposes(), model, {"a": A, "b": B, "v": A + 1})
    if flags is None:
        assert operators(model)[-1] == "Gemm"
        return
    assert operators(model) == ["Gemm"]
    attributes = only(model, "Gemm").attributes
    assert tuple(attributes[name].as_int() if name in attributes else 0 for name in ("transA", "transB")) == flags


@pytest.mark.parametrize(
    "text",
    [
        """g (float[2,3,4] a, float[2,3,4] b) => (float[2,3,3] y) {
            t = Transpose <perm = [0, 2, 1]> (b)  y = MatMul (a, t)
        }""",
        "g (float[2,3,4] a, float[5,4] b) => (float[2,3,5] y) { t = Transpose (b)  y = MatMul (a, t) }",
        "g (float[2,3] a, float[3,4] b) => (float[4,2] y, float[2,4] m) { m = MatMul (a, b)  y = Transpose (m) }",
        "g (int64[2,3] a, int64[2,3] b) => (int64[2,2] y) { t = Transpose (b)  y = MatMul (a, t) }",
        """g (float[2,3] a, float[3,4] b) => (float[4,2] y) <float[4] c = {1,2,3,4}> {
            m = Gemm (a, b, c)  y = Transpose (m)
        }""",
    ],
)
def test_what_gemm_cannot_express_stays(text: str) -> None:
    model = parse(text)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        assert value.shape is not None
        feeds[str(value.name)] = rng.integers(-4, 4, value.shape.numpy()).astype(value.dtype.numpy())
    assert not check_pass(FoldTransposes(), model, feeds)


def test_transposed_weight_is_read_directly() -> None:
    model = parse(
        "g (float[n,3] x) => (float[n,4] y) { t = Transpose (w)  y = MatMul (x, t) }",
        initializers={"w": B.T.copy()},
    )
    assert check_pass(FoldTransposes(protected=["w"]), model, {"x": A})
    assert operators(model) == ["Gemm"]
    assert only(model, "Gemm").inputs[1] is model.graph.initializers["w"]
