"""Pooling windows along one axis as a matrix: row o has the weights of the input positions that window o covers.

Summing windows is linear and separates into the axes, so a pool and its adjoint are a matrix product an axis. That
holds for every padding, dilation, ceil mode and divisor, in every float type, and has a derivative in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from ..registry import Primal
from ..tape import Tensor
from .sizes import Size, join_sizes, larger, size_of

Divisor = Literal["none", "covered", "padded"]
"""Windows are summed; or averaged over the input positions they cover; or over those and the padding."""


@dataclass(frozen=True)
class Windows:
    """How windows slide along one spatial axis.

    Attributes:
        size: of the input, *count* of the output.
        before, after: the padding.
    """

    size: Size
    count: Size
    kernel: int
    stride: int
    dilation: int
    before: Size
    after: Size

    @property
    def is_identity(self) -> bool:
        return self.kernel == 1 and self.stride == 1 and self.before == 0 and self.after == 0

    @property
    def tiles(self) -> bool:
        """Whether the windows cover each input position once."""
        return (
            isinstance(self.size, int)
            and isinstance(self.count, int)
            and self.kernel == self.stride
            and self.dilation == 1
            and self.before == 0
            and self.size == self.count * self.stride
        )

    @property
    def overlap(self) -> bool:
        return self.stride < (self.kernel - 1) * self.dilation + 1


def pooling_windows(n: Primal) -> list[Windows]:
    """The windows of a pooling node along each spatial axis."""
    x, y = n.required(0), n.outputs[0]
    rank = x.rank - 2
    kernel = n.attr("kernel_shape")
    strides, dilations = n.attr("strides", [1] * rank), n.attr("dilations", [1] * rank)
    automatic = n.attr("auto_pad", "NOTSET")
    pads = n.attr("pads", [0] * 2 * rank) if automatic == "NOTSET" else [0] * 2 * rank
    windows = []
    for index in range(rank):
        size, count = size_of(x, index + 2), size_of(y, index + 2)
        before: Size = pads[index]
        after: Size = pads[index + rank]
        if automatic.startswith("SAME"):
            extent = (kernel[index] - 1) * dilations[index] + 1
            total = larger((count - 1) * strides[index] + extent - size, 0)
            less = total // 2 if isinstance(total, int) else total / 2
            before, after = (less, total - less) if automatic == "SAME_UPPER" else (total - less, less)
        windows.append(Windows(size, count, kernel[index], strides[index], dilations[index], before, after))
    return windows


def window_matrix(x: Tensor, windows: Windows, divisor: Divisor) -> Tensor:
    """The matrix [count, size] of *windows*, in the dtype of *x*: a constant where all sizes are known."""
    w = windows
    known = [value for value in (w.size, w.count, w.before, w.after) if isinstance(value, int)]
    if len(known) == 4:
        return x.op.constant(_known_matrix(windows, divisor), x.dtype)
    return _computed_matrix(x, windows, divisor)


def apply_along(matrix: Tensor, x: Tensor, axis: int, *, transposed: bool = False) -> Tensor:
    """Multiply each line of *x* along *axis* (2 or more) by *matrix*, or by its transpose."""
    op, rank = x.op, x.rank
    if axis == rank - 1:
        return x @ (matrix if transposed else matrix.swap_last_two())
    left = matrix.swap_last_two() if transposed else matrix
    if axis == rank - 2:
        return left @ x
    # The axes behind become one, so that the axis is the last but one.
    merged = op.Reshape(x, op.ints([0] * (axis + 1) + [-1]))
    sizes = [size_of(x, other) for other in range(rank)]
    sizes[axis] = size_of(left, 0)
    return op.Reshape(left @ merged, join_sizes(op, sizes), allowzero=1)


def _known_matrix(w: Windows, divisor: Divisor) -> np.ndarray:
    matrix = np.zeros((w.count, w.size))  # type: ignore[arg-type]
    for o in range(w.count):  # type: ignore[arg-type]
        taps = o * w.stride + w.dilation * np.arange(w.kernel) - w.before  # type: ignore[operator]
        covered = taps[(taps >= 0) & (taps < w.size)]
        counted = {"none": 1, "covered": len(covered), "padded": np.sum(taps < w.size + w.after)}[divisor]  # type: ignore[operator]
        matrix[o, covered] = 1.0 / max(counted, 1)
    return matrix


def _computed_matrix(x: Tensor, w: Windows, divisor: Divisor) -> Tensor:
    op = x.op
    starts = _count_up(x, w.count) * w.stride - w.before
    offsets = _count_up(x, w.size).unsqueeze([0]) - starts.unsqueeze([1])
    inside = op.And(offsets >= 0, offsets < (w.kernel - 1) * w.dilation + 1)
    if w.dilation > 1:
        step = op.constant(w.dilation, ir.DataType.INT64)
        inside = op.And(inside, op.Mod(offsets, step).equals(0))
    matrix = inside.cast(x.dtype)
    if divisor == "none":
        return matrix
    if divisor == "covered":
        counts = matrix.sum([1], keepdims=True)
    else:
        taps = starts.unsqueeze([1]) + op.constant(w.dilation * np.arange(w.kernel), ir.DataType.INT64)
        end = op.ints([w.size]) if isinstance(w.size, int) else w.size
        counts = (taps < end + w.after).cast(x.dtype).sum([1], keepdims=True)
    return matrix / op.Max(counts, op.constant(1, x.dtype))


def _count_up(x: Tensor, count: Size) -> Tensor:
    """0, 1, … up to *count*, int64."""
    op = x.op
    zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
    stop = op.constant(count, ir.DataType.INT64) if isinstance(count, int) else count.squeeze([0])
    return op.Range(zero, stop, one)
