"""TransposeWideProducts: what a processor's session computes of the gradient of a vocabulary's weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.differentiate import PASS
from onnxgrad.passes.transpose_wide_products import TransposeWideProducts

from .running import check_pass, operators, parse

WIDE = 16_384
RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    ("body", "rows_of_b", "added"),
    [
        ("y = Gemm <transA = 1> (a, b)", 5, False),
        ("y = Gemm <transA = 1, transB = 1> (a, b)", 3, False),
        ("y = Gemm <transA = 1> (a, b, c)", 5, True),
        ("y = Gemm <transA = 1, alpha = 1.0, beta = 1.0> (a, b, c)", 5, True),
    ],
)
@pytest.mark.parametrize("tokens", ["5", "T"])
def test_wide_products(body: str, rows_of_b: int, added: bool, tokens: str) -> None:
    b = (5, 3) if rows_of_b == 5 else (3, 5)
    rows = f"{tokens},3" if rows_of_b == 5 else f"3,{tokens}"
    model = parse(
        f"g (float[{tokens},{WIDE}] a, float[{rows}] b, float[{WIDE},3] c) => (float[{WIDE},3] y) {{ {body} }}"
    )
    feeds = {"a": random(5, WIDE), "b": random(*b), "c": random(WIDE, 3)}
    assert check_pass(TransposeWideProducts(), model, feeds, rtol=1e-6, atol=1e-6)
    assert operators(model)[-1] == ("Add" if added else "Transpose")


@pytest.mark.parametrize(
    "text",
    [
        f"g (float[5,{WIDE - 1}] a, float[5,3] b) => (float[{WIDE - 1},3] y) {{ y = Gemm <transA = 1> (a, b) }}",
        f"g (float[{WIDE},5] a, float[5,3] b) => (float[{WIDE},3] y) {{ y = Gemm (a, b) }}",
        f"g (float[5,{WIDE}] a, float[5,3] b) => (float[{WIDE},3] y) {{ y = Gemm <transA = 1, alpha = 0.5> (a, b) }}",
        f"g (double[5,{WIDE}] a, double[5,3] b) => (double[{WIDE},3] y) {{ y = Gemm <transA = 1> (a, b) }}",
    ],
)
def test_others_stay(text: str) -> None:
    model = parse(text)
    dtypes = [value.dtype.numpy() for value in model.graph.inputs if value.dtype is not None]
    shapes = [value.shape.numpy() for value in model.graph.inputs if value.shape is not None]
    feeds = {name: random(*shape).astype(dtype) for name, shape, dtype in zip("ab", shapes, dtypes, strict=True)}
    assert not check_pass(TransposeWideProducts(), model, feeds)


def test_a_tied_embedding_accumulates() -> None:
    """Rows of the weight are read as embeddings, and all of them make the scores; two steps add up in one buffer."""
    weight = random(WIDE, 4)
    model = parse(
        f"g (int64[T] tokens) => (float[T,{WIDE}] y) {{ x = Gather (w, tokens)  y = Gemm <transB = 1> (x, w) }}",
        initializers={"w": weight},
        opset=18,
    )
    tokens, dy = np.array([7, 2, 7]), random(3, WIDE)
    session = onnxgrad.compile(ir.to_proto(model), mode="accumulate").session(providers=["CPUExecutionProvider"])
    double = dy.astype(np.float64)
    expected = double.T @ weight[tokens]
    np.add.at(expected, tokens, double @ weight)
    for steps in (1, 2):
        session.backward({"tokens": tokens}, {"y": dy})
        np.testing.assert_allclose(session.grads["w"], steps * expected, rtol=1e-4, atol=1e-4)
    fresh = session.grad({"tokens": tokens}, {"y": dy})["w"]
    np.testing.assert_allclose(fresh, expected, rtol=1e-4, atol=1e-4)


def test_what_waits_for_the_product_does_not_wait_for_its_transposition() -> None:
    model = parse(
        f"""g (float[5,{WIDE}] a, float[5,3] b) => (float[{WIDE},3] y, float[5,3] z)
        <int64[1] zero = {{0}}, int64[2] none = {{0, 3}}> {{
            p = Gemm <transA = 1> (a, b)
            y = Neg (p)
            s = Slice (p, zero, zero, zero)
            r = Reshape <allowzero = 1> (s, none)
            z = Concat <axis = 0> (b, r)
        }}"""
    )
    (waiting,) = [node for node in model.graph if node.op_type == "Slice"]
    waiting.metadata_props[PASS] = "schedule"
    feeds = {"a": random(5, WIDE), "b": random(5, 3)}
    assert check_pass(TransposeWideProducts(), model, feeds, rtol=1e-6, atol=1e-6)
    product = waiting.inputs[0]
    assert product is not None
    assert [node.op_type for node in product.consumers()] in (["Slice", "Transpose"], ["Transpose", "Slice"])
