"""Loops whose bodies compute values of another size in each iteration, against PyTorch's autograd."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

import onnxgrad

from .test_control_flow import B, W, check, parse, random

TANH = "h1 = Mul (hi, b)  m = MatMul (h1, w)  h2 = Tanh (m)"
ROUNDS = f"""ho = Loop (n, yes, h) <body = inner (int64 k, bool c, float[2,3] hi) => (bool co, float[2,3] h2) {{
    co = Identity (c)
    {TANH}
}}>"""


def tanh(h: Tensor, v: Mapping[str, Tensor]) -> Tensor:
    return torch.tanh((h * v["b"]) @ v["w"])


@pytest.mark.parametrize("counts", [[1, 3, 0, 2], [2, 2, 2], [0, 0]])
@pytest.mark.parametrize("outer", ["Scan", "Loop"])
def test_a_loop_of_other_rounds_in_each_iteration(outer: str, counts: list[int]) -> None:
    heads = {
        "Scan": "Scan <num_scan_inputs = 1, body = step (float[2,3] h, int64 n) => (float[2,3] ho) {",
        "Loop": """Loop (size, yes, x) <body = step (int64 i, bool go, float[2,3] h) => (bool going, float[2,3] ho) {
            going = Identity (go)
            n = Gather (counts, i)""",
    }
    graph = f"""g (float[2,3] x, int64[t] counts) => (float[2,3] y) <bool yes = {{1}}> {{
        size = Size (counts)
        y = {heads[outer]}
            {ROUNDS}
        }}> {"(x, counts)" if outer == "Scan" else ""}
    }}"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = v["x"]
        for _ in range(sum(counts)):
            h = tanh(h, v)
        return {"y": h}

    check(graph, {"w": W, "b": B}, {"x": random(2, 3), "counts": np.array(counts)}, reference)


def test_a_loop_that_ends_by_what_it_computes() -> None:
    """An inner loop without a number of rounds, whose last state and stack are read, three deep."""
    graph = """g (float[4,2,3] xs, float[2,3] x) => (float[2,3] y)
    <bool yes = {1}, float bound = {0.9}, int64 twice = {2}> {
        y = Scan <num_scan_inputs = 1, body = outer (float[2,3] h0, float[2,3] xi) => (float[2,3] h4) {
            h = Add (h0, xi)
            h3 = Loop (twice, yes, h) <body = middle (int64 j, bool go, float[2,3] hj) => (bool going, float[2,3] hk) {
                going = Identity (go)
                hl, stack = Loop (, yes, hj) <body = inner (int64 k, bool c, float[2,3] hi)
                        => (bool co, float[2,3] h2, float[2,3] ho) {
                    h1 = Mul (hi, b)
                    h2 = MatMul (h1, w)
                    norm = ReduceL2 <keepdims = 0> (h2)
                    co = Greater (norm, bound)
                    ho = Sin (h2)
                }>
                total = ReduceSum <keepdims = 0> (stack, zeros)
                hk = Add (hl, total)
            }>
            h4 = Sigmoid (h3)
        }> (x, xs)
    }"""
    rounds = []

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = v["x"]
        for xi in v["xs"]:
            h = h + xi
            for _ in range(2):
                total, rounds_now = torch.zeros((), dtype=h.dtype), 0
                while True:
                    h, rounds_now = (h * v["b"]) @ v["w"], rounds_now + 1
                    total = total + torch.sin(h)
                    if not torch.linalg.vector_norm(h) > 0.9:
                        break
                rounds.append(rounds_now)
                h = h + total
            h = torch.sigmoid(h)
        return {"y": h}

    weights = {"w": W, "b": B}
    graph = graph.replace("int64 twice = {2}", "int64 twice = {2}, int64[1] zeros = {0}")
    check(graph, weights, {"xs": 3 * random(4, 2, 3), "x": random(2, 3)}, reference)
    assert len(set(rounds)) > 1


def test_windows_that_grow() -> None:
    """Attention of each position over those before it, in a loop."""
    graph = """g (float[t,3] x) => (float[t,3] y) <bool yes = {1}, int64[1] one = {1}, int64[1] zero = {0}> {
        size = Shape <start = 0, end = 1> (x)
        count = Squeeze (size)
        y = Loop (count, yes) <body = step (int64 i, bool c) => (bool co, float[3] yo) {
            co = Identity (c)
            at = Unsqueeze (i, zero)
            end = Add (at, one)
            seen = Slice (x, zero, end)
            q = Gather (x, i)
            k = MatMul (seen, w)
            scores = MatMul (k, q)
            p = Softmax (scores)
            yo = MatMul (p, seen)
        }>
    }"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x, rows = v["x"], []
        for i in range(len(x)):
            seen = x[: i + 1]
            rows.append(torch.softmax(seen @ v["w"] @ x[i], 0) @ seen)
        return {"y": torch.stack(rows)}

    check(graph, {"w": W}, {"x": random(4, 3)}, reference)


def test_what_is_chosen_by_content() -> None:
    graph = """g (float[4,5] x, float[3] h) => (float[3] y) <float zero = {0}> {
        y = Scan <num_scan_inputs = 1, body = step (float[3] hi, float[5] xi) => (float[3] ho) {
            positive = Greater (xi, zero)
            chosen = Compress <axis = 0> (xi, positive)
            e = Exp (chosen)
            m = ReduceSum <keepdims = 0> (e)
            t = Mul (hi, m)
            ho = Tanh (t)
        }> (h, x)
    }"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = v["h"]
        for xi in v["x"]:
            h = torch.tanh(h * xi[xi > 0].exp().sum())
        return {"y": h}

    check(graph, {}, {"x": random(4, 5), "h": random(3)}, reference)


def test_random_values_of_varying_sizes_are_refused() -> None:
    graph = """g (float[4,5] x, float[3] h) => (float[3] y) <float zero = {0}, int64[1] last = {-1}> {
        y = Scan <num_scan_inputs = 1, body = step (float[3] hi, float[5] xi) => (float[3] ho) {
            positive = Greater (xi, zero)
            chosen = Compress <axis = 0> (xi, positive)
            noise = RandomNormalLike (chosen)
            e = Mul (chosen, noise)
            m = ReduceSum <keepdims = 0> (e)
            ho = Mul (hi, m)
        }> (h, x)
    }"""
    with pytest.raises(onnxgrad.UnsupportedError, match="random values whose sizes"):
        onnxgrad.compile(parse(graph, {}), wrt="inputs", outputs=["y"])
