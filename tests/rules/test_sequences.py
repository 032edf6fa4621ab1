"""Sequences whose lengths the data decide, against PyTorch's autograd on Python lists."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from .test_control_flow import B, W, check, random

SPLIT = "s = SplitToSequence <axis = 0> (x, parts)"


def pieces(v: Mapping[str, Tensor]) -> list[Tensor]:
    return list(v["x"].split(v["parts"].tolist()))


FEEDS = {"x": random(6, 3), "parts": np.array([2, 1, 3])}


def run(body: str, output: str, reference: object, feeds: Mapping[str, np.ndarray] | None = None) -> None:
    graph = f"""g (float[6,3] x, int64[k] parts, int64 i) => ({output}) <int64 one = {{1}}> {{
        {SPLIT}
        {body}
    }}"""
    check(graph, {"w": W, "b": B}, {**FEEDS, "i": np.array(1), **(feeds or {})}, reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("position", [0, 2, -1, -3])
def test_one_element(position: int) -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.sin(pieces(v)[position]) @ v["w"]}

    body = "e = SequenceAt (s, i) t = Sin (e) y = MatMul (t, w)"
    run(body, "float[m,3] y", reference, {"i": np.array(position)})


def test_two_readers_of_one_sequence() -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.cat(pieces(v)) * pieces(v)[1]}

    run("e = SequenceAt (s, i) c = ConcatFromSequence <axis = 0> (s) y = Mul (c, e)", "float[m,3] y", reference)


@pytest.mark.parametrize("position", ["", ", i"])
def test_insert_and_erase(position: str) -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = pieces(v)
        inserted = torch.tanh(v["x"][:2])
        parts.insert(1 if position else len(parts), inserted)
        parts.pop(1 if position else -1)
        parts.insert(len(parts), v["x"][:1] * v["b"])
        return {"y": torch.exp(torch.cat(parts))}

    body = f"""z = Constant <value_ints = [0]> () two = Constant <value_ints = [2]> ()
        o = Constant <value_ints = [1]> ()
        h = Slice (x, z, two, z) t = Tanh (h)
        a = SequenceInsert (s, t{position})
        r = SequenceErase (a{position})
        f = Slice (x, z, o, z) g = Mul (f, b)
        q = SequenceInsert (r, g)
        c = ConcatFromSequence <axis = 0> (q)
        y = Exp (c)"""
    run(body, "float[m,3] y", reference)


def test_map_with_shared_and_captured_tensors() -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.cat([torch.tanh(p @ v["w"]) * v["b"] for p in pieces(v)])}

    body = """m = SequenceMap (s, b) <body = each (float[r,3] p, float[3] q) => (float[r,3] o) {
            a = MatMul (p, w) t = Tanh (a) o = Mul (t, q)
        }>
        y = ConcatFromSequence <axis = -2> (m)"""
    run(body, "float[m,3] y", reference)


def test_a_list_that_a_loop_appends_to() -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h, states = v["h"], []
        for _ in range(int(v["n"])):
            h = torch.tanh(h @ v["w"] + v["b"])
            states.append(h)
        return {"y": torch.stack(states, 1)}

    graph = """g (int64 n, float[2,3] h) => (float[2,t,3] y) <bool yes = {1}> {
        empty = SequenceEmpty <dtype = 1> ()
        last, list = Loop (n, yes, h, empty) <body = step (int64 i, bool c, float[2,3] hi, seq(float[2,3]) li)
                => (bool co, float[2,3] ho, seq(float[2,3]) lo) {
            co = Identity (c)
            m = MatMul (hi, w)
            a = Add (m, b)
            ho = Tanh (a)
            lo = SequenceInsert (li, ho)
        }>
        y = ConcatFromSequence <axis = 1, new_axis = 1> (list)
    }"""
    check(graph, {"w": W, "b": B}, {"n": np.array(4), "h": random(2, 3)}, reference)
