"""Rules of the convolutions: Conv, ConvTranspose.

Both are partial derivatives of one trilinear form of a long signal, a short signal and a kernel (see
`sliding_windows`). Conv computes the short signal, ConvTranspose the long one; so the cotangent of the one's signal
is the other operator, and the cotangents of their kernels have the same form.
"""

from __future__ import annotations

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .convolution_forms import long_cotangent, weight_cotangent
from .sizes import Size, larger, size_of
from .sliding_windows import Windows, convolve

rules = Registry()


@rules.vjp("Conv", inputs=(0, 1, 2))
def conv(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """dx = ConvTranspose(dy, w), dw = x correlated with dy, db = Σ dy.

    Positions that a stride leaves unread at the end of x have a zero gradient.
    """
    x, w = n.required(0), n.required(1)
    windows, group = _windows_of_conv(n, dy), n.attr("group", 1)
    return (
        lambda: n.fastest(long_cotangent(dy, w, x, windows, group)),
        lambda: weight_cotangent(n, x, dy, w, windows, group),
        lambda: dy.sum([axis for axis in range(dy.rank) if axis != 1]),
    )


@rules.vjp("ConvTranspose", inputs=(0, 1, 2))
def conv_transpose(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """dx = Conv(dy, w), dw = dy correlated with x, db = Σ dy."""
    x, w = n.required(0), n.required(1)
    windows, group = _windows_of_conv_transpose(n), n.attr("group", 1)
    return (
        lambda: convolve(dy, w, x, windows, group),
        lambda: weight_cotangent(n, dy, x, w, windows, group),
        lambda: dy.sum([axis for axis in range(dy.rank) if axis != 1]),
    )


def _windows_of_conv(n: Primal, y: Tensor) -> list[Windows]:
    x = n.required(0)
    before, after = _explicit_pads(n)
    automatic = n.attr("auto_pad", "NOTSET")
    windows = []
    for index, stride, dilation, extent in _axes(n):
        size, count = size_of(x, index + 2), size_of(y, index + 2)
        start: Size = before[index]
        end: Size = after[index]
        fits = stride == 1
        if automatic.startswith("SAME"):
            start, end = _halves(extent - 1 if stride == 1 else (count - 1) * stride + extent - size, automatic)
            fits = fits or (isinstance(extent, int) and extent >= stride)
        uncovered = start + size + end - extent
        slack = 0 if fits else uncovered % stride if isinstance(uncovered, int) else None
        windows.append(Windows(stride, dilation, start, end, slack))
    return windows


def _windows_of_conv_transpose(n: Primal) -> list[Windows]:
    x = n.required(0)
    before, after = _explicit_pads(n)
    automatic, shape = n.attr("auto_pad", "NOTSET"), n.attr("output_shape")
    added = n.attr("output_padding", [0] * (x.rank - 2))
    windows = []
    for index, stride, dilation, extent in _axes(n):
        start: Size = before[index]
        end: Size = after[index]
        if shape is not None:
            surplus = (size_of(x, index + 2) - 1) * stride + extent + added[index] - shape[index]
            start, _ = _halves(surplus, automatic)
            end = surplus - start
        elif automatic.startswith("SAME"):
            start, end = _halves(extent + added[index] - stride, automatic)
        end = end - added[index]
        slack = max(-end, 0) if isinstance(end, int) else None
        windows.append(Windows(stride, dilation, start, larger(end, 0), slack))
    return windows


def _axes(n: Primal) -> list[tuple[int, int, int, Size]]:
    """For each spatial axis its index, stride, dilation, and how much of the long signal a window spans."""
    w = n.required(1)
    rank = n.required(0).rank - 2
    kernel: list[Size] = [size_of(w, axis) for axis in range(2, w.rank)]
    for index, given in enumerate(n.attr("kernel_shape", ())):
        kernel[index] = given
    strides, dilations = n.attr("strides", [1] * rank), n.attr("dilations", [1] * rank)
    return [
        (index, stride, dilation, (size - 1) * dilation + 1)
        for index, (stride, dilation, size) in enumerate(zip(strides, dilations, kernel, strict=True))
    ]


def _explicit_pads(n: Primal) -> tuple[list[int], list[int]]:
    rank = n.required(0).rank - 2
    pads = n.attr("pads") if n.attr("auto_pad", "NOTSET") == "NOTSET" else None
    return ([0] * rank, [0] * rank) if pads is None else (list(pads[:rank]), list(pads[rank:]))


def _halves(total: Size, automatic: str) -> tuple[Size, Size]:
    """Automatic padding of *total* (none if negative) before and after an axis.

    An odd one is greater after it for SAME_UPPER, else before it.
    """
    total = larger(total, 0)
    less = total // 2 if isinstance(total, int) else total / 2
    return (less, total - less) if automatic == "SAME_UPPER" else (total - less, less)
