"""Factors of rows are multiplied where there are fewer columns, or stay."""

from __future__ import annotations

import numpy as np
import pytest

from onnxgrad.passes.move_row_factors import MoveRowFactors

from .running import check_pass, parse

GENERATOR = np.random.default_rng(0)
FEEDS = {
    "p": GENERATOR.standard_normal((6, 40), dtype=np.float32),
    "w": GENERATOR.standard_normal((6, 1), dtype=np.float32),
    "b": GENERATOR.standard_normal((40, 5), dtype=np.float32),
    "h": GENERATOR.standard_normal((6, 5), dtype=np.float32),
}


def graph(body: str, rows: str = "6", column: str = "6,1", outputs: str = "") -> str:
    factors = f"float[{column}]" if column else "float"
    inputs = f"float[{rows},40] p, {factors} w, float[40,5] b, float[{rows},5] h"
    return f"g ({inputs}) => (float[?,?] y, float[?,?] z{outputs}) {{ {body} }}"


@pytest.mark.parametrize("rows", ["6", "N"])
@pytest.mark.parametrize(
    "products",
    [
        "y = Gemm (s, b)  z = Gemm <transA = 1> (s, h)",
        "y = MatMul (s, b)  z = Gemm <transA = 1> (h, s)",
    ],
)
def test_moved(products: str, rows: str) -> None:
    model = parse(graph(f"s = Mul (w, p)  {products}", rows, f"{rows},1"))
    assert check_pass(MoveRowFactors(), model, FEEDS, rtol=1e-5, atol=1e-5)
    scaled = [node.outputs[0].shape for node in model.graph if node.op_type == "Mul"]
    assert [shape[1] for shape in scaled if shape is not None] == [5, 5]


def test_a_single_number_is_moved() -> None:
    model = parse(graph("s = Mul (p, w)  y = Gemm (s, b)  z = Gemm <transA = 1> (s, h)", column=""))
    assert check_pass(MoveRowFactors(), model, FEEDS | {"w": np.array(0.3, np.float32)}, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "column"),
    [
        ("s = Mul (p, w)  y = Gemm (s, b)  z = Relu (s)", "6,1"),  # something else reads it
        ("s = Mul (p, w)  y = Gemm (s, b)  z = Gemm <transB = 1> (s, s)", "6,1"),  # it is on both sides
        ("s = Mul (p, w)  y = Gemm (s, b, h)  z = Gemm (s, b)", "6,1"),  # what is added is not scaled
        ("s = Mul (p, w)  y = Gemm (s, b)  z = Gemm (s, b)", "1,40"),  # factors of columns
        ("s = Mul (p, w)  y = Gemm <transA = 1> (s, p)  z = Gemm (s, b)", "6,1"),  # not fewer columns
    ],
)
def test_not_moved(body: str, column: str) -> None:
    feeds = FEEDS | ({"w": GENERATOR.standard_normal((1, 40), dtype=np.float32)} if column == "1,40" else {})
    assert not check_pass(MoveRowFactors(), parse(graph(body, column=column)), feeds)
