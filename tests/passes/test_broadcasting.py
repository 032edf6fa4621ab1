"""Sums over leading axes, which undo the broadcasting of a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from onnxgrad.passes.broadcasting import sum_leading
from onnxgrad.passes.tape import CANONICAL_OPSET, Tape

from .running import operators, run


def summed(dtype: type, shape: str, count: int) -> ir.Model:
    """A model of one input x of *shape*, and its sum over the first *count* axes."""
    sizes = [int(size) if size.isdigit() else size for size in shape.split(",")]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype))), shape=ir.Shape(sizes))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": CANONICAL_OPSET}, name="g")
    tape = Tape(graph)
    tape.returns(sum_leading(tape.tensor(x), count))
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("shape", ["2,3,5", "n,3,5", "n,m,k", "2,3,k", "1,1,5"])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_against_numpy(shape: str, count: int, dtype: type) -> None:
    sizes = [int(size) if size.isdigit() else position + 2 for position, size in enumerate(shape.split(","))]
    x = np.random.default_rng(0).uniform(-1, 1, sizes).astype(dtype)
    (result,) = run(summed(dtype, shape, count), {"x": x}).values()
    expected = x.astype(np.float64).sum(tuple(range(count)))
    np.testing.assert_allclose(
        result, expected, rtol=4 * float(np.finfo(dtype).eps), atol=4 * float(np.finfo(dtype).eps)
    )
    assert result.dtype == dtype


def test_of_no_rows_is_zero() -> None:
    (result,) = run(summed(np.float32, "n,3", 1), {"x": np.zeros((0, 3), np.float32)}).values()
    np.testing.assert_array_equal(result, np.zeros(3, np.float32))


def test_integers_are_reduced() -> None:
    model = summed(np.int64, "n,3", 1)
    assert operators(model)[-1] == "ReduceSum"
    (result,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": np.arange(6).reshape(2, 3)})
    np.testing.assert_array_equal(result, [3, 5, 7])
