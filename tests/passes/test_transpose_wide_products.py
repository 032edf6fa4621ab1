"""TransposeWideProducts: what a processor's session computes of the gradient of a vocabulary's weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.differentiate import PASS
from onnxgrad.passes.transpose_wide_products import TransposeWideProducts

from .running import check_pass, operators, parse

WIDE, TALL = 16_384, 256
LOW = TALL - 1
RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize(
    ("body", "b_transposed", "added"),
    [
        ("y = Gemm <transA = 1> (a, b)", False, False),
        ("y = Gemm <transA = 1, transB = 1> (a, b)", True, False),
        ("y = Gemm <transA = 1> (a, b, c)", False, True),
        ("y = Gemm <transA = 1, alpha = 1.0, beta = 1.0> (a, b, c)", False, True),
    ],
)
@pytest.mark.parametrize("tokens", [TALL, "T"])
def test_wide_products(body: str, b_transposed: bool, added: bool, tokens: int | str) -> None:
    shape = f"3,{tokens}" if b_transposed else f"{tokens},3"
    inputs = f"float[{tokens},{WIDE}] a, float[{shape}] b, float[{WIDE},3] c"
    model = parse(f"g ({inputs}) => (float[{WIDE},3] y) {{ {body} }}")
    feeds = {"a": random(TALL, WIDE), "b": random(*(3, TALL) if b_transposed else (TALL, 3)), "c": random(WIDE, 3)}
    assert check_pass(TransposeWideProducts(), model, feeds, rtol=1e-5, atol=1e-5)
    assert operators(model)[-1] == ("Add" if added else "Transpose")


@pytest.mark.parametrize(
    "text",
    [
        f"g (float[T,{WIDE - 1}] a, float[T,3] b) => (float[{WIDE - 1},3] y) {{ y = Gemm <transA = 1> (a, b) }}",
        f"g (float[{LOW},{WIDE}] a, float[{LOW},3] b) => (float[{WIDE},3] y) {{ y = Gemm <transA = 1> (a, b) }}",
        f"g (float[{WIDE},T] a, float[T,3] b) => (float[{WIDE},3] y) {{ y = Gemm (a, b) }}",
        f"g (float[T,{WIDE}] a, float[T,3] b) => (float[{WIDE},3] y) {{ y = Gemm <transA = 1, alpha = 0.5> (a, b) }}",
        f"g (double[T,{WIDE}] a, double[T,3] b) => (double[{WIDE},3] y) {{ y = Gemm <transA = 1> (a, b) }}",
    ],
)
def test_others_stay(text: str) -> None:
    model = parse(text)
    feeds = {}
    for value in model.graph.inputs:
        assert value.dtype is not None
        assert value.shape is not None
        shape = [size if isinstance(size, int) else 5 for size in value.shape]
        feeds[str(value.name)] = random(*shape).astype(value.dtype.numpy())
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
        f"""g (float[T,{WIDE}] a, float[T,3] b) => (float[{WIDE},3] y, float[T,3] z)
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
