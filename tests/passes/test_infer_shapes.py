"""Symbolic sizes are only claimed to be what they must be."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from onnxgrad.passes.infer_shapes import InferShapes


def inferred_shape(graph: str) -> list[str]:
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {graph}'))
    InferShapes()(model)
    (output,) = model.graph.outputs
    assert output.shape is not None
    return [str(dim) for dim in output.shape]


@pytest.mark.parametrize(
    ("bounds", "size"),
    [
        ("starts = {0}, int64[1] ends = {512}", "Min(512, n)"),
        ("starts = {2}, int64[1] ends = {512}", "Max(0, Min(512, n) - 2)"),
        ("starts = {0}, int64[1] ends = {1}", "1"),
    ],
)
def test_a_slice_may_end_before_its_constant_end(bounds: str, size: str) -> None:
    shape = inferred_shape(
        f"g (float[2, n] x) => (float[a, b] y) <int64[1] {bounds}, int64[1] axes = {{1}}> "
        "{ y = Slice(x, starts, ends, axes) }"
    )
    assert shape == ["2", size]


def test_a_slice_of_a_known_size_is_known() -> None:
    shape = inferred_shape(
        "g (float[2, 7] x) => (float[a, b] y) <int64[1] starts = {1}, int64[1] ends = {512}, int64[1] axes = {1}> "
        "{ y = Slice(x, starts, ends, axes) }"
    )
    assert shape == ["2", "6"]


def test_two_symbols_broadcast_to_the_larger() -> None:
    assert inferred_shape("g (float[m] x, float[n] z) => (float[k] y) { y = Add(x, z) }") == ["Max(m, n)"]


@pytest.mark.parametrize(
    ("node", "rank"),
    [
        ("Expand(x, sizes)", 3),
        ("ConstantOfShape(sizes)", 3),
        ("Expand(x, two)", 2),
        ("Tile(x, two)", 2),
        ("Col2Im(columns, sizes, sizes)", 5),
    ],
)
def test_computed_sizes_have_a_known_rank(node: str, rank: int) -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> '
            "g (float[2, n] x, float[2, c, n] columns, int64[3] sizes, int64[2] two) => (float y) "
            f"{{ z = {node} y = ReduceSum(z) }}"
        )
    )
    InferShapes()(model)
    shape = model.graph[0].outputs[0].shape
    assert shape is not None
    assert len(shape) == rank


def test_sizes_with_ceilings_are_understood_by_what_follows() -> None:
    """The library writes ceilings for pools, and then stumbles over them where a Reshape follows."""
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 20]> '
            "g (float[2, 4, n] x, float[2] one) => (float[a, b, c] z) "
            "<int64[3] split = {0, 2, -1}, int64[3] whole = {0, 4, -1}> { "
            "y = AveragePool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x) "
            "s = Reshape(y, split) t = InstanceNormalization(s, one, one) u = Reshape(t, whole) "
            "z = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (u) }"
        )
    )
    InferShapes()(model)
    shapes = [[str(dim) for dim in node.outputs[0].shape or ()] for node in list(model.graph)[:4]]
    assert shapes[0] == shapes[3] == ["2", "4", "1 - floor(3/2 - n/2)"]
    assert shapes[1] == shapes[2] == ["2", "2", "2 - 2*floor(3/2 - n/2)"]


def test_a_size_with_a_ceiling_may_have_a_name_in_the_output() -> None:
    shape = inferred_shape(
        "g (float[2, 4, n] x) => (float[a, b, c] y)"
        "{ y = MaxPool <kernel_shape = [3], strides = [2], ceil_mode = 1> (x) }"
    )
    assert len(shape) == 3


def test_a_reduction_over_computed_axes_that_stay_keeps_the_rank() -> None:
    shape = inferred_shape("g (float[2, n] x, int64[k] axes) => (float[a, b] y) { y = ReduceSum(x, axes) }")
    assert len(shape) == 2


def test_a_loop_may_change_a_size_of_its_state() -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20]>
    g (float[2,3] x, int64 n, bool c) => (float[k,3] y, int64[2] sizes) {
        y = Loop (n, c, x) <body = b (int64 i, bool p, float[r,3] s) => (bool q, float[t,3] e) {
            q = Identity (p)
            e = Concat <axis = 0> (s, x)
        }>
        sizes = Shape (y)
    }""")
    model.graph.node(0).attributes["body"].as_graph().inputs[2].shape = None
    InferShapes()(model)
    final = model.graph.node(0).outputs[0].shape
    assert final is not None
    assert final[1] == 3
    assert not isinstance(final[0], int)
    assert model.graph.outputs[1].const_value is None


def test_a_branch_of_unknown_shape_leaves_the_result_open() -> None:
    """Nobody infers the shapes of `custom.Op`."""
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 20, "custom": 1]>
    g (float[3, 4] x, bool c) => (float[a, b] z) {
        y = If (c) <then_branch = t () => (float[3, 4] p) { p = Neg (x) },
                    else_branch = e () => (q) { q = custom.Op (x) }>
        z = Neg (y)
    }""")
    InferShapes()(model)
    assert model.graph.node(0).outputs[0].shape is None


def test_mel_weights_have_a_row_for_each_bin_of_the_spectrum() -> None:
    shape = inferred_shape(
        "g (float[a, 9] x) => (float[a, b] y) <int64 bins = {4}, int64 length = {16}, int64 rate = {8000}, "
        "float lower = {0}, float upper = {4000}> "
        "{ w = MelWeightMatrix(bins, length, rate, lower, upper) y = MatMul(x, w) }"
    )
    assert shape == ["a", "4"]
