"""Short Fourier transforms as products with their matrices."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from .rewriting import static_shape
from .substitution import put_appended
from .tape import Tape, Tensor

LONGEST = 256
"""In ONNX Runtime on 2 cores a product takes less time than a DFT up to twice this length."""


class FourierByProducts(ir.passes.InPlacePass):
    """Write DFT of a known length, up to `LONGEST`, as a product with the matrix that it is.

    ONNX Runtime transforms signal by signal, on one thread; products run on all. What comes out holds the matrices, up
    to a megabyte each: a graph for a session, not for a file.

    Requires: shapes inferred. Guarantees: values change by rounding only, and keep their names.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph, modified, opset = model.graph, False, model.opset_imports[""]
        tape = Tape(graph, opset=opset)
        for node in list(graph):
            axis = _axis(node, opset)
            length = None if axis is None else _length(node)
            if axis is None or length is None:
                continue
            count = len(graph)
            tape.at(node.name or node.op_type, node.metadata_props)
            put_appended(node, count, _product(tape, node, axis, length).value, node.outputs[0])
            modified = True
        return ir.passes.PassResult(model, modified)


def _axis(node: ir.Node, opset: int) -> int | None:
    """The axis of a DFT that is to be written as a product; None for any other node."""
    if node.op_type != "DFT" or node.domain != "" or node.inputs[0] is None:
        return None
    x, y = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if not x or not y or node.inputs[0].dtype != ir.DataType.FLOAT or 0 in x:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        axis = _number(node.inputs[2])
    else:
        axis = node.attributes.get_int("axis", 1) if opset < 20 else -2
    if axis is None:
        return None
    axis %= len(x)
    return axis if max(x[axis], y[axis]) <= LONGEST else None


def _length(node: ir.Node) -> int | None:
    """The length that is asked for, 0 for that of the signal or its spectrum; None if it is computed."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    return 0 if given is None else _number(given)


def _number(scalar: ir.Value) -> int | None:
    tensor = None if scalar.is_graph_input() else ir.convenience.get_const_tensor(scalar)
    return None if tensor is None else int(tensor.numpy().item())


def _product(op: Tape, node: ir.Node, axis: int, length: int) -> Tensor:
    """The signals as rows, real and imaginary parts in turns, times the matrix of the transform."""
    assert node.inputs[0] is not None
    x = op.tensor(node.inputs[0])
    sizes, result = static_shape(x.value), static_shape(node.outputs[0])
    assert sizes is not None
    assert result is not None
    rank = len(sizes)
    others = [other for other in range(rank - 1) if other != axis]
    order = [*others, axis, rank - 1]
    inverse, onesided = (bool(node.attributes.get_int(name, 0)) for name in ("inverse", "onesided"))
    matrix = transform_matrix(
        (sizes[axis], sizes[-1]),
        (length or sizes[axis]) if onesided and not inverse else result[axis],
        inverse=inverse,
        onesided=onesided,
    )
    rows = x.transpose(order).reshape([prod(sizes[other] for other in others), sizes[axis] * sizes[-1]])
    y = rows @ op.constant(matrix, ir.DataType.FLOAT)
    back = [order.index(each) for each in range(rank)]
    return y.reshape([*(sizes[other] for other in others), result[axis], result[-1]]).transpose(back)


def transform_matrix(given: tuple[int, int], length: int, *, inverse: bool, onesided: bool) -> np.ndarray:
    """The matrix M of a DFT, for which y = x M, float64.

    Args:
        given: how many elements x has, and how many parts each of them: 1 if real, 2 if complex.
        length: that of the transform, to which x is cropped or padded.
        inverse, onesided: as of DFT (ONNX operators).
    """
    count, parts = given
    basis = np.eye(count * parts).reshape(-1, count, parts)
    signals = basis[..., 0] + (1j * basis[..., 1] if parts == 2 else 0)
    if inverse and onesided:
        return np.fft.irfft(signals, length)
    transform = np.fft.ifft(signals, length) if inverse else np.fft.fft(signals, length)
    bins = length // 2 + 1 if onesided else length
    return np.stack([transform.real, transform.imag], -1)[:, :bins].reshape(count * parts, -1)
