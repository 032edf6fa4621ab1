"""Sums of slices by several ScatterND."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.scatter_in_pieces import ScatterInPieces
from onnxgrad.runtime.executor import session_options
from onnxgrad.runtime.processor import scattered_on_one_thread

from .running import check_pass, parse

ADD = 'reduction = "add"'


def scatter(data: str, updates: str, indices: str, attributes: str, *, repeat: bool = True) -> ir.Model:
    """Sizes and attributes in ONNX's text syntax; *repeat* the indices to the shape of the updates."""
    return parse(f"""
        g (float[{data}] x, int64[{indices}] i, float[{updates}] u) => (float[{data}] y) {{
            {"sizes = Shape(u)" if repeat else ""}
            {"at = Expand(i, sizes)" if repeat else ""}
            y = ScatterElements <{attributes}> (x, {"at" if repeat else "i"}, u)
        }}
    """)


def count_of(model: ir.Model, op_type: str) -> int:
    return sum(node.op_type == op_type for node in model.graph)


@pytest.mark.parametrize(("most", "pieces"), [(100, 1), (30, 2), (29, 3), (6, 10)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_sums_are_the_same(most: int, pieces: int, rank: int) -> None:
    """Of ten slices of six elements; the data come out of a node, as where they are no buffer."""
    sizes = {1: [60], 2: [10, 6], 3: [10, 2, 3]}[rank]
    expand = "" if rank == 1 else "s = Shape(u)\nat = Expand(i, s)"
    index = [sizes[0], *[1] * (rank - 1)]
    target = [4, *sizes[1:]]
    model = parse(f"""
        g (float{target} x, int64{index} i, float{sizes} u) => (float{target} y) {{
            data = Abs(x)
            {expand}
            y = ScatterElements <reduction = "add"> (data, {"i" if rank == 1 else "at"}, u)
        }}
    """)
    generator = np.random.default_rng(0)
    feeds = {
        "x": generator.standard_normal(target, np.float32),
        "i": generator.integers(-4, 4, index),
        "u": generator.standard_normal(sizes, np.float32),
    }
    assert check_pass(ScatterInPieces(most), model, feeds, rtol=1e-5, atol=1e-6)
    assert count_of(model, "ScatterND") == pieces
    assert count_of(model, "ScatterElements") == count_of(model, "Expand") == 0


@pytest.mark.parametrize(
    "model",
    [
        scatter("4, 6", "10, 6", "10, 6", ADD, repeat=False),
        scatter("4, 6", "10, 6", "10, 1", "axis = 0"),
        scatter("4, 6", "10, 6", "10, 1", 'reduction = "max"'),
        scatter("10, 6", "10, 6", "10, 1", f"axis = 1, {ADD}"),
        scatter("4, 6", "10, 5", "10, 1", ADD),
        scatter("4, 6", "n, 6", "n, 1", ADD),
        scatter("4, 6", "10, 6", "1, 6", ADD),
    ],
    ids=["elements", "written over", "largest", "axis", "part of a slice", "size unknown", "one slice repeated"],
)
def test_what_stays(model: ir.Model) -> None:
    assert not ScatterInPieces(1000)(model).modified


@pytest.mark.parametrize(("rows", "most", "modified"), [(100, 60, True), (100, 30, False), (20, 30, True)])
def test_a_large_table_is_not_copied_for_each_piece(rows: int, most: int, modified: bool) -> None:
    """As the gradient of a vocabulary's embedding by few tokens would be."""
    model = parse(f"""
        g (float[{rows}, 6] x, int64[10, 1] i, float[10, 6] u) => (float[{rows}, 6] y) {{
            data = Abs(x)
            sizes = Shape(u)
            at = Expand(i, sizes)
            y = ScatterElements <{ADD}> (data, at, u)
        }}
    """)
    assert ScatterInPieces(most)(model).modified == modified


def test_a_buffer_is_not_copied_to_and_fro() -> None:
    """It is accumulated in place by one node, not by several."""
    assert not ScatterInPieces(30)(scatter("4, 6", "10, 6", "10, 1", ADD)).modified
    assert ScatterInPieces(60)(scatter("4, 6", "10, 6", "10, 1", ADD)).modified


def test_a_session_counts_every_update() -> None:
    """In several pieces, on several threads, and all at one position."""
    most = scattered_on_one_thread()
    assert most is not None, "this version of ONNX Runtime adds less on one thread"
    width = 64
    count = 3 * most // width
    text = f"""
        g (float[100, {width}] x, int64[{count}] i) => (float[{count}, {width}] y) {{ y = Gather(x, i) }}
    """
    program = onnxgrad.compile(parse(text), wrt="inputs")
    session = program.session(providers=["CPUExecutionProvider"], options=session_options(4))
    inputs = {"x": np.zeros((100, width), np.float32), "i": np.full(count, 7)}
    for _ in range(5):
        gradient = session.grad(inputs, {"y": np.ones((count, width), np.float32)})["x"]
        assert (gradient[7] == count).all()
        assert gradient.sum() == count * width
