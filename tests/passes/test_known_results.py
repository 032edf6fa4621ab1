"""Results are remembered for nodes that are alike, and only for those."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.passes.tape import Tape


def tape() -> Tape:
    return Tape(ir.Graph([], [], nodes=[], opset_imports={"": 26}, name="g"))


def test_alike_nodes_have_equal_results() -> None:
    op = tape()
    x, y = (op.argument(name, ir.DataType.FLOAT16, ["n", 3]) for name in "xy")
    (a, b), (c, d) = ((op.Flatten(op.Cast(v, to=ir.DataType.DOUBLE)), op.Transpose(v, perm=[1, 0])) for v in (x, y))
    assert (a.dtype, a.shape, b.shape) == (ir.DataType.DOUBLE, ("n", 3), (3, "n"))
    assert (c.dtype, c.shape, d.shape) == (a.dtype, a.shape, b.shape)


def test_attributes_and_constants_make_a_difference() -> None:
    op = tape()
    x = op.argument("x", ir.DataType.FLOAT, [2, 3, 4])
    assert [op.Transpose(x, perm=perm).shape for perm in ([0, 2, 1], [2, 1, 0])] == [(2, 4, 3), (4, 3, 2)]
    assert [op.Reshape(x, op.ints(sizes)).shape for sizes in ([6, 4], [8, 3])] == [(6, 4), (8, 3)]
    assert [op.Cast(x, to=dtype).dtype for dtype in (ir.DataType.BOOL, ir.DataType.DOUBLE)] == [9, 11]


def test_sizes_that_depend_on_data_are_kept_apart() -> None:
    op = tape()
    x = op.argument("x", ir.DataType.FLOAT, [2, 3])
    targets = [op.argument(name, ir.DataType.INT64, [2]) for name in "st"]
    first, second = (op.Reshape(x, target).shape for target in targets)
    assert None not in (*first, *second)
    assert set(first).isdisjoint(second)
