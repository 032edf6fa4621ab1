"""Which forward values the backward part reads, and which it computes again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.passes.choose_residuals import ChooseResiduals
from onnxgrad.passes.differentiate import PASS
from onnxgrad.passes.eliminate_common_subexpressions import RECOMPUTE, EliminateCommonSubexpressions

from .running import operators, parse, run


def choose(graph: str, **shapes: tuple[int, ...]) -> ir.Model:
    """Runs the pass on a graph whose backward nodes are those that compute values called d…, and checks the values."""
    model = parse(graph)
    forward = []
    for node in model.graph:
        if str(node.outputs[0].name).startswith("d"):
            node.metadata_props[PASS] = "differentiate"
        else:
            forward += [str(value.name) for value in node.outputs]
    generator = np.random.default_rng(0)
    feeds = {
        str(v.name): generator.standard_normal(shapes.get(str(v.name)) or v.shape.numpy()).astype(v.dtype.numpy())
        for v in model.graph.inputs
        if v.shape is not None and v.dtype is not None
    }
    expected = run(model, feeds)
    step = ChooseResiduals(forward)
    modified = step.call(model).modified
    assert modified == bool(recomputed(model))
    actual = run(model, feeds)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)
    return model


def recomputed(model: ir.Model) -> list[str]:
    return [str(node.outputs[0].name) for node in model.graph if RECOMPUTE in node.metadata_props]


def read_by(model: ir.Model, output: str) -> list[str]:
    (node,) = [node for node in model.graph if node.outputs[0].name == output]
    return [str(value.name) for value in node.inputs if value is not None]


GROUPED = """g (float[{b}, 2, 1, 128, 64] x, float[{b}, 2, 8, 128, 64] dy)
    => (float[{b}, 2, 8, 128, 64] y, float[{b}, 2, 8, 128, 64] dq)
    <int64[5] sizes = {{1, 1, 8, 1, 1}}> {{
        k = Exp (x)
        repeated = Expand (k, sizes)
        y = Sin (repeated)
        dc = Cos (repeated)
        dq = Mul (dc, dy)
    }}"""


@pytest.mark.parametrize("batch", ["3", "B"])
def test_a_repeated_key_is_kept_once(batch: str) -> None:
    model = choose(GROUPED.format(b=batch), x=(3, 2, 1, 128, 64), dy=(3, 2, 8, 128, 64))
    assert recomputed(model) == ["repeated.recompute"]
    assert read_by(model, "dc") == ["repeated.recompute"]
    assert operators(model) == ["Exp", "Expand", "Sin", "Expand", "Cos", "Mul"]


def test_what_saves_little_is_kept() -> None:
    model = choose(GROUPED.format(b=3).replace("128", "4"))
    assert recomputed(model) == []


def gated(gate: str) -> ir.Model:
    return choose(f"""g (float[256, 256] x, float[256, 256] dy) => (float[256, 256] y, float[256, 256] dx) {{
        h = Exp (x)
        s = {gate} (h)
        p = Mul (h, s)
        y = Sin (p)
        dh = Mul (h, dy)
        ds = Mul (s, dh)
        dc = Cos (p)
        dx = Mul (dc, ds)
    }}""")


def test_a_product_of_kept_factors_is_computed_again() -> None:
    model = gated("Tanh")
    assert recomputed(model) == ["p.recompute"]
    # Right before its reader, so that it does not live longer than needed.
    assert operators(model)[-3:] == ["Mul", "Cos", "Mul"]


def test_a_gate_and_what_it_lets_through_are_computed_again() -> None:
    """Of SiLU only the input is kept: a sigmoid counts as two bytes written for each that is not kept."""
    assert recomputed(gated("Sigmoid")) == ["s.recompute", "p.recompute"]


def test_factors_that_are_not_kept_anyway_cost_more_than_their_product() -> None:
    model = choose("""g (float[256, 256] x, float[256, 256] dy) => (float[256, 256] y, float[256, 256] dx) {
        a = Exp (x)
        b = Sin (x)
        p = Mul (a, b)
        y = Sin (p)
        dc = Cos (p)
        dx = Mul (dc, dy)
    }""")
    assert recomputed(model) == []


def test_widened_values_are_kept_narrow_and_views_cost_nothing() -> None:
    model = choose("""g (float16[256, 256] x, float[65536] dy) => (float[65536] y, float[65536] dx)
        <int64[1] flat = {-1}> {
        h = Exp (x)
        wide = Cast <to = 1> (h)
        row = Reshape (wide, flat)
        y = Sin (row)
        dc = Cos (row)
        dx = Mul (dc, dy)
    }""")
    assert recomputed(model) == ["wide.recompute", "row.recompute"]
    assert read_by(model, "wide.recompute") == ["h"]


def test_a_view_of_a_kept_value_is_kept() -> None:
    model = choose("""g (float[256, 256] x, float[65536] dy) => (float[65536] y, float[65536] dx, float[256, 256] dh)
        <int64[1] flat = {-1}> {
        h = Exp (x)
        row = Reshape (h, flat)
        y = Sin (row)
        dh = Neg (h)
        dc = Cos (row)
        dx = Mul (dc, dy)
    }""")
    assert recomputed(model) == []


def test_outputs_expensive_and_random_values_are_kept() -> None:
    model = choose("""g (float[256, 256] x, float[256, 256] dy)
        => (float[256, 256] n, float[256, 256] y, float[256, 256] dx) <float r = {0.5}, bool t = {1}> {
        n = Neg (x)
        e = Exp (x)
        o, m = Dropout <seed = 1> (x, r, t)
        s = Add (e, o)
        y = Sin (s)
        da = Mul (dy, n)
        db = Mul (da, e)
        dm = Where (m, db, dy)
        dx = Mul (dm, o)
    }""")
    assert recomputed(model) == []


def test_copies_that_read_each_other_stand_in_order() -> None:
    """The later value of the forward part is read first by the backward part, and needs the earlier one's copy."""
    model = choose("""g (float[256, 1] x, float[256, 256] dy)
        => (float[256, 256] y, float[256, 256] dx, float[256, 256] dw) <int64[2] sizes = {256, 256}> {
        h = Exp (x)
        wide = Expand (h, sizes)
        twice = Add (wide, wide)
        y = Sin (twice)
        da = Cos (twice)
        dx = Mul (da, dy)
        db = Cos (wide)
        dw = Mul (db, dx)
    }""")
    assert recomputed(model) == ["wide.recompute", "twice.recompute"]
    assert read_by(model, "db") == ["wide.recompute"]


def test_equal_nodes_are_not_merged_with_their_copies_again() -> None:
    model = choose(GROUPED.format(b=3))
    before = operators(model)
    EliminateCommonSubexpressions().call(model)
    assert operators(model) == before


def test_values_that_a_subgraph_reads_stay() -> None:
    model = choose("""g (float[256, 1] x, float[256, 256] dy, bool c) => (float[256, 256] y, float[256, 256] dx)
        <int64[2] sizes = {256, 256}> {
        h = Exp (x)
        wide = Expand (h, sizes)
        y = If (c) <then_branch = t () => (float[256, 256] a) { a = Neg (wide) },
                    else_branch = e () => (float[256, 256] b) { b = Abs (wide) }>
        dc = Cos (wide)
        dx = Mul (dc, dy)
    }""")
    assert recomputed(model) == ["wide.recompute"]
    assert read_by(model, "dc") == ["wide.recompute"]


def test_a_normalization_is_computed_again_from_what_its_gradient_needs_in_any_case() -> None:
    model = choose(
        """g (float[64, 512] x, float[512] scale, float[512, 4] w, float[64, 4] dy)
        => (float[64, 4] y, float[512, 4] dw, float[64, 512] dx) {
            k = Exp (x)
            n, mean, inverse = LayerNormalization (k, scale)
            y = MatMul (n, w)
            dt = Transpose <perm = [1, 0]> (n)
            dw = MatMul (dt, dy)
            dc = Sub (k, mean)
            dx = Mul (dc, inverse)
        }""",
        scale=(512,),
    )
    assert recomputed(model) == ["n.recompute"]
    assert read_by(model, "dt") == ["n.recompute"]
    assert read_by(model, "dc") == ["k", "mean"], "its small outputs are kept"
