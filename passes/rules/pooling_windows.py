"""The windows of a pooling operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..registry import Primal
from ..tape import Tensor
from .sizes import Size, join_sizes, larger, size_of


@dataclass(frozen=True)
class PoolingWindows:
    """How windows slide along one spatial axis.

    Attributes:
        size: of the input; *count*: how many windows.
        kernel, stride, dilation: of the operator.
        before, after: the padding.
        may_exceed: a window may reach beyond the padding (ceil_mode).
    """

    size: Size
    count: Size
    kernel: int
    stride: int
    dilation: int
    before: Size
    after: Size
    may_exceed: bool

    @property
    def extent(self) -> int:
        return (self.kernel - 1) * self.dilation + 1


def pooling_windows(n: Primal) -> list[PoolingWindows]:
    """The windows of a pooling node along each spatial axis."""
    x, y = n.required(0), n.outputs[0]
    rank = x.rank - 2
    kernel = n.attr("kernel_shape")
    strides, dilations = n.attr("strides", [1] * rank), n.attr("dilations", [1] * rank)
    automatic = n.attr("auto_pad", "NOTSET")
    pads = n.attr("pads", [0] * 2 * rank) if automatic == "NOTSET" else [0] * 2 * rank
    windows = []
    for index in range(rank):
        size, count, stride = size_of(x, index + 2), size_of(y, index + 2), strides[index]
        before: Size = pads[index]
        after: Size = pads[index + rank]
        if automatic.startswith("SAME"):
            extent = (kernel[index] - 1) * dilations[index] + 1
            total = extent - 1 if stride == 1 else larger((count - 1) * stride + extent - size, 0)
            less = total // 2 if isinstance(total, int) else total / 2
            before, after = (less, total - less) if automatic == "SAME_UPPER" else (total - less, less)
        may_exceed = automatic == "NOTSET" and stride > 1 and bool(n.attr("ceil_mode", 0))
        windows.append(PoolingWindows(size, count, kernel[index], stride, dilations[index], before, after, may_exceed))
    return windows


def overlap(n: Primal) -> bool:
    """Whether windows of a pooling node may share elements."""
    kernel = n.attr("kernel_shape")
    ones = [1] * len(kernel)
    steps = zip(kernel, n.attr("strides", ones), n.attr("dilations", ones), strict=True)
    return any(stride < (size - 1) * dilation + 1 for size, stride, dilation in steps)


def kernel_over_count(x: Tensor, windows: PoolingWindows, *, padding_counts: bool) -> Tensor | None:
    """The size of the kernel over the number of elements that each window averages, [count]; None if 1 everywhere.

    Counted are the elements of the input that a window covers, and with *padding_counts* those of the padding.
    """
    op, w = x.op, windows
    if not w.may_exceed and (padding_counts or (w.before == 0 and w.after == 0)):
        return None
    offsets = w.dilation * np.arange(w.kernel)
    known = [value for value in (w.size, w.count, w.before, w.after) if isinstance(value, int)]
    if len(known) == 4:
        size, count, before, after = known
        taps = w.stride * np.arange(count)[:, None] + offsets - before
        inside = taps < size + after if padding_counts else (taps >= 0) & (taps < size)
        return op.constant(w.kernel / np.maximum(inside.sum(1), 1), x.dtype)
    zero, one = op.constant(0, ir.DataType.INT64), op.constant(1, ir.DataType.INT64)
    starts = op.Range(zero, join_sizes(op, [w.count]).squeeze([0]), one) * w.stride - w.before
    reached = starts.unsqueeze([1]) + op.ints(offsets)
    end = join_sizes(op, [w.size + w.after if padding_counts else w.size])
    counted = reached < end if padding_counts else op.And(reached >= 0, reached < end)
    counts = counted.cast(x.dtype).sum([1])
    return float(w.kernel) / op.Max(counts, op.constant(1, x.dtype))
