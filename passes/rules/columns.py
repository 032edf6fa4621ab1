"""The rule of Col2Im, which adds blocks up to an image."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .sizes import Size, count_up_to, size_of
from .slicing import elements, zero_pad

rules = Registry()


@rules.vjp("Col2Im", inputs=(0,))
def col2im(n: Primal, dy: Tensor) -> Cotangent:
    """Each element of a block reads the cotangent where it was added: im2col.

    The blocks are gathered axis by axis, (batch, channel, image…) to (batch, channel, block₁, count₁, block₂, …).
    """
    op, x, rank = n.op, n.required(0), dy.rank - 2
    blocks = elements(n.required(2), rank)
    ones = [1] * rank
    strides, dilations = n.attr("strides", ones), n.attr("dilations", ones)
    pads = n.attr("pads", [0] * 2 * rank)

    def cotangent() -> Tensor:
        gathered = zero_pad(dy, {axis + 2: (pads[axis], pads[axis + rank]) for axis in range(rank)})
        for axis in range(rank):
            at = 2 + 2 * axis
            positions = _positions(op, size_of(gathered, at), blocks[axis], strides[axis], dilations[axis])
            gathered = op.Gather(gathered, positions, axis=at)
        within, between = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
        return gathered.transpose([0, 1, *within, *between]).reshape_like(x)

    return cotangent


def _positions(op: Tape, size: Size, block: Size, stride: int, dilation: int) -> Tensor:
    """Where the elements of each block lie along an axis of *size*: [block, count], in row-major order."""
    if isinstance(size, int) and isinstance(block, int):
        count = (size - dilation * (block - 1) - 1) // stride + 1
        positions = dilation * np.arange(block)[:, None] + stride * np.arange(count)
        return op.constant(positions, ir.DataType.INT64)
    room = size - (block - 1) * dilation - 1
    assert isinstance(room, Tensor)
    offsets, starts = count_up_to(op, block) * dilation, count_up_to(op, room / stride + 1) * stride
    return offsets.unsqueeze([1]) + starts
