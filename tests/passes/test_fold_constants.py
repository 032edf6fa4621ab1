"""FoldConstants: shape arithmetic becomes initializers, weights stay, declared sizes are not allocated."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.passes.fold_constants import LARGEST_FOLDED_FLOATS, FoldConstants
from onnxgrad.passes.infer_shapes import InferShapes

from .running import check_pass, only, operators, parse

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def contents(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def test_shape_arithmetic_of_an_exporter_becomes_one_constant() -> None:
    model = parse(
        """g (float[2,3,4] x) => (float[2,12] y)
        <int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] ax = {0}> {
            s = Shape (x)
            a = Gather (s, i0)  b = Gather (s, i1)  c = Gather (s, i2)
            d = Mul (b, c)
            a1 = Unsqueeze (a, ax)  d1 = Unsqueeze (d, ax)
            t = Concat <axis = 0> (a1, d1)
            y = Reshape (x, t)
        }"""
    )
    assert check_pass(FoldConstants(), model, {"x": X})
    assert operators(model) == ["Reshape"]
    np.testing.assert_array_equal(contents(model, "t"), [2, 12])


def test_partly_known_shapes_fold_as_far_as_they_go() -> None:
    model = parse(
        """g (float[n,3,4] x) => (float[n,12] y, float z)
        <int64[1] i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] ax = {0}> {
            s = Shape (x)
            a = Gather (s, i0)  b = Gather (s, i1)  c = Gather (s, i2)
            d = Mul (b, c)  d1 = Unsqueeze (d, ax)
            t = Concat <axis = 0> (a, d1)
            y = Reshape (x, t)
            f = Cast <to = 1> (b)  r = Sqrt (f)  m = ReduceMean <keepdims = 0> (x)  z = Div (m, r)
        }"""
    )
    assert check_pass(FoldConstants(), model, {"x": X})
    target = only(model, "Reshape").inputs[1]
    assert target is not None
    assert target.const_value is not None
    assert target.const_value.numpy().tolist() == [-1, 12]
    assert contents(model, "r") == np.sqrt(np.float32(3))


@pytest.mark.parametrize(("attributes", "expected"), [("start = 1", [3, 4]), ("start = -2, end = -1", [3])])
def test_slices_of_a_shape(attributes: str, expected: list[int]) -> None:
    model = parse(f"g (float[n,3,4] x) => (int64[k] y) {{ s = Shape <{attributes}> (x)  y = Identity (s) }}")
    assert check_pass(FoldConstants(), model, {"x": X})
    assert contents(model, "s").tolist() == expected


def test_size_of_a_static_value() -> None:
    model = parse("g (float[2,3,4] x) => (int64 y) { s = Size (x)  y = Identity (s) }")
    assert check_pass(FoldConstants(), model, {"x": X})
    assert contents(model, "s") == 24


def test_causal_mask_of_integers_is_folded_through_floats() -> None:
    model = parse(
        """g (float[2,4,4] x) => (float[2,4,4] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] last = {-1}, int64[1] d = {2},
         float low = {-1e9}, float none = {0}> {
            s = Shape (x)  n1 = Gather (s, d)  n = Squeeze (n1)
            r = Range (zero, n, one)  c = Unsqueeze (r, last)
            later = Greater (r, c)
            mask = Where (later, low, none)
            y = Add (x, mask)
        }"""
    )
    assert check_pass(FoldConstants(), model, {"x": np.ones((2, 4, 4), np.float32)})
    assert operators(model) == ["Add"]
    np.testing.assert_array_equal(contents(model, "mask"), np.triu(np.full((4, 4), -1e9, np.float32), 1))


def test_index_ranges_made_by_nonzero() -> None:
    model = parse(
        """g (float[2,4,4] x) => (float[2,4,4] y) <int64[1] n = {4}, int64[1] first = {0}> {
            ones = ConstantOfShape <value = int64[1] {1}> (n)
            i = NonZero (ones)  t = Transpose (i)  r = Squeeze (t)
            f = Cast <to = 1> (r)  y = Add (x, f)
        }"""
    )
    assert check_pass(FoldConstants(), model, {"x": np.ones((2, 4, 4), np.float32)})
    assert operators(model) == ["Add"]


def test_weights_and_what_is_made_of_them_stay() -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    model = parse(
        """g (float[2,3] x) => (float[2,4] y) <int64[1] ax = {0}> {
            t = Transpose (w)  u = Transpose (t)  h = MatMul (x, u)
            m = ReduceMean (w, ax)  y = Add (h, m)
        }""",
        initializers={"w": w},
    )
    assert not check_pass(FoldConstants(), model, {"x": X[0, :2, :3]})


def test_protected_scalars_stay_and_others_fold() -> None:
    text = """g (float[2,3,4] x) => (float[2,3,4] y) <float scale = {4.0}, float two = {2.0}> {
        t = Exp (scale)  c = Sqrt (two)  d = Mul (c, two)  h = Mul (x, t)  y = Div (h, d)
    }"""
    model = parse(text)
    assert check_pass(FoldConstants(protected=["scale"]), model, {"x": X}, rtol=1e-6)
    assert operators(model) == ["Exp", "Mul", "Div"]
    model = parse(text)
    assert check_pass(FoldConstants(), model, {"x": X}, rtol=1e-6)
    assert operators(model) == ["Mul", "Div"]


def test_protected_intermediate_values_stay() -> None:
    model = parse("g (float[2,3,4] x) => (int64[3] y) { s = Shape (x)  y = Identity (s) }")
    assert not check_pass(FoldConstants(protected=["s"]), model, {"x": X})


def test_overridable_initializers_are_no_constants() -> None:
    model = parse("g (float[2,3,4] x, int64 k) => (float[2,3,4] y) { f = Cast <to = 1> (k)  y = Mul (x, f) }")
    k = model.graph.inputs[1]
    k.const_value = ir.tensor(np.array(2), name="k")
    model.graph.register_initializer(k)
    assert not check_pass(FoldConstants(), model, {"x": X, "k": np.array(3)})


def test_outputs_and_random_nodes_stay() -> None:
    model = parse(
        """g (float[2,3,4] x) => (int64[3] s, float[2] y, float[2] z) <float[1] p = {0.5}> {
            s = Shape (x)  y = RandomUniform <shape = [2], seed = 1.0> ()
            b = Bernoulli <seed = 1.0> (p)  z = Expand (b, two)
        }""",
        initializers={"two": np.array([2])},
        infer=False,
    )
    InferShapes().call(model)
    assert not FoldConstants().call(model).modified


def test_quantized_weights_stay_quantized() -> None:
    model = parse(
        """g (float[2,4] x) => (float[2,4] y) <float scale = {0.5}> {
            f = DequantizeLinear (q, scale)  y = MatMul (x, f)
        }""",
        initializers={"q": np.arange(16, dtype=np.int8).reshape(4, 4)},
    )
    assert not check_pass(FoldConstants(), model, {"x": X[0, :2]})


@pytest.mark.parametrize(
    "body",
    [
        "v = ConstantOfShape (n)",
        "o = Cast <to = 1> (one)  v = Expand (o, n)",
        """lim = Squeeze (n)  f = Cast <to = 1> (lim)  a = Cast <to = 1> (zero)
           b = Cast <to = 1> (one)  v = Range (a, f, b)""",
        "o = Cast <to = 1> (one)  o1 = Unsqueeze (o, ax)  v = Tile (o1, n)",
    ],
)
@pytest.mark.parametrize("declared", [10**12, LARGEST_FOLDED_FLOATS + 1])
def test_declared_sizes_are_not_allocated(body: str, declared: int) -> None:
    model = parse(
        f"""g (float x) => (float[k] y)
        <int64[1] n = {{{declared}}}, int64 zero = {{0}}, int64 one = {{1}}, int64[1] ax = {{0}}> {{
            {body}  y = Mul (x, v)
        }}"""
    )
    FoldConstants().call(model)
    assert "v" not in model.graph.initializers


def test_broadcasts_of_constants_are_not_allocated() -> None:
    a, b, c = (np.arange(n).reshape(shape) for n, shape in ((999, (-1, 1, 1)), (999, (1, -1, 1)), (999, (1, 1, -1))))
    model = parse(
        "g (float x) => (float[999,999,999] y) { s = Max (a, b, c)  f = Cast <to = 1> (s)  y = Mul (x, f) }",
        initializers={"a": a, "b": b, "c": c},
    )
    assert not FoldConstants().call(model).modified


def test_constants_in_subgraphs_are_folded() -> None:
    model = parse(
        """g (bool c, float[2,3,4] x) => (float[2,3,4] y) <int64 i = {1}> {
            y = If (c) <
                then_branch = t () => (float[2,3,4] a) {
                    s = Shape (x)  k = Gather (s, i)  f = Cast <to = 1> (k)  a = Mul (x, f)
                },
                else_branch = e () => (float[2,3,4] b) { b = Neg (x) }
            >
        }"""
    )
    assert check_pass(FoldConstants(), model, {"x": X, "c": np.array(True)})
    assert [node.op_type for node in model.graph.all_nodes()] == ["If", "Mul", "Neg"]
