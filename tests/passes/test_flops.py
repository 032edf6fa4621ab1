"""FLOPs, counted by hand."""

from __future__ import annotations

import pytest

from onnxgrad.passes.flops import Flops, count_flops

from .running import parse

CASES = {
    "(float[2,3,8,8] x, float[5,3,3,3] w) => (float[2,5,6,6] y) { y = Conv(x, w) }": (2 * (2 * 5 * 36) * 27, 0),
    "(float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv<group = 4>(x, w) }": (2 * (4 * 36) * 9, 0),
    "(float[2,3,8,8] x, float[5,3,3,3] w, float[5] b) => (float[2,5,6,6] y) { y = Conv(x, w, b) }": (
        2 * (2 * 5 * 36) * 27,
        2 * 5 * 36,
    ),
    "(float[1,6,4,4] x, float[6,2,2,2] w) => (float[1,2,8,8] y) { y = ConvTranspose<strides = [2, 2]>(x, w) }": (
        2 * (6 * 16) * 8,
        0,
    ),
    "(float[7,3] a, float[7,5] b) => (float[3,5] y) { y = Gemm<transA = 1>(a, b) }": (2 * 3 * 5 * 7, 0),
    "(float[7,3] a, float[5,3] b, float[5] c) => (float[7,5] y) { y = Gemm<transB = 1>(a, b, c) }": (2 * 35 * 3, 35),
    "(float[4,3,7] a, float[7,5] b) => (float[4,3,5] y) { y = MatMul(a, b) }": (2 * 60 * 7, 0),
    "(float[7] a, float[7,5] b) => (float[5] y) { y = MatMul(a, b) }": (2 * 5 * 7, 0),
    "(float[4,3,7] a, float[4,7,5] b) => (float[4,5] y) { y = Einsum<equation = 'bij,bjk->bk'>(a, b) }".replace(
        "'", '"'
    ): (2 * 4 * 3 * 7 * 5, 0),
    "(float[4,3] a) => (float[3,4] y) { y = Einsum<equation = 'ij->ji'>(a) }".replace("'", '"'): (0, 12),
    # Two directions, four gates: W is (2, 4 * 5, 3), R is (2, 4 * 5, 5).
    "(float[6,2,3] x, float[2,20,3] w, float[2,20,5] r) => (float[6,2,2,5] y)"
    ' { y = LSTM<hidden_size = 5, direction = "bidirectional">(x, w, r) }': (
        2 * 6 * 2 * (2 * 20 * 3 + 2 * 20 * 5),
        4 * 6 * 2 * 40,
    ),
    # 2 x 3 heads, 4 queries by 6 keys, of 5 elements; values of 7.
    "(float[2,3,4,5] q, float[2,3,6,5] k, float[2,3,6,7] v) => (float[2,3,4,7] y) { y = Attention(q, k, v) }": (
        2 * (2 * 3 * 4 * 6) * (5 + 7),
        6 * (2 * 3 * 4 * 6),
    ),
    "(float[2,4,15] q, float[2,6,15] k, float[2,6,21] v) => (float[2,4,21] y)"
    " { y = Attention<q_num_heads = 3, kv_num_heads = 3>(q, k, v) }": (
        2 * (2 * 3 * 4 * 6) * (5 + 7),
        6 * (2 * 3 * 4 * 6),
    ),
    "(float[4,3] a) => (float[4,3] y) { y = Relu(a) }": (0, 12),
    "(float[4,1] a, float[3] b) => (float[4,3] y) { y = Add(a, b) }": (0, 12),
    "(float[4,3] a) => (float[1,1] y) { y = ReduceSum(a) }": (0, 12),
    "(float[4,3] a) => (float[4,3] y) { y = Softmax(a) }": (0, 60),
    "(float[4,3] a) => (float[3,4] y) { y = Transpose(a) }": (0, 0),
    "(float[1,2,8,8] x) => (float[1,2,4,4] y) { y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }": (0, 128),
    "(float[9,3] x, int64[2,3] i, float[2,3] u) => (float[9,3] y)"
    ' { y = ScatterElements<reduction = "add">(x, i, u) }': (0, 6),
    "(float[9,3] x, int64[2,3] i, float[2,3] u) => (float[9,3] y) { y = ScatterElements(x, i, u) }": (0, 0),
    # A body as often as it is run: once for each of 7 slices, and 5 times.
    "(float[4] s, float[4,7] x) => (float[4] y) { y = Scan<num_scan_inputs = 1, scan_input_axes = [1], body = step"
    " (float[4] a, float[4] b) => (float[4] c) { c = Add(a, b) }>(s, x) }": (0, 7 * 4),
    "(float[4,4] s, bool more) => (float[4,4] y) <int64 times = {5}> { y = Loop<body = step"
    " (int64 i, bool again, float[4,4] a) => (bool on, float[4,4] b)"
    " { on = Identity(again) b = MatMul(a, a) }>(times, more, s) }": (5 * 2 * 64, 0),
    # The branch that takes more.
    "(bool c, float[4,4] x) => (float[4,4] y) { y = If<"
    "then_branch = yes () => (float[4,4] a) { a = Exp(x) }, else_branch = no () => (float[4,4] b) { b = MatMul(x, x) }"
    ">(c) }": (2 * 64, 0),
}


@pytest.mark.parametrize("graph", CASES)
def test_flops(graph: str) -> None:
    assert count_flops(parse(f"g {graph}").graph) == Flops(*CASES[graph])


def test_sizes_of_symbolic_dims() -> None:
    graph = parse("g (float[n,3] a, float[3,5] b) => (float[n,5] y) { y = MatMul(a, b) }").graph
    assert count_flops(graph, {"n": 7}).products == 2 * 7 * 5 * 3
    assert count_flops(graph).products == 2 * 32 * 5 * 3
