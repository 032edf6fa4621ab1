"""Rules of the convolutions: Conv, ConvTranspose.

Both are one trilinear form of a long signal x, a short signal y and a kernel w,

    Σ y[n, m, o] w[m, c, k] x[n, c, stride·o + dilation·k - before],

the sum over all indices, n the batch, m and c the channels, o and k positions along each spatial axis. Conv computes
the factor of y from x and w, ConvTranspose that of x from y and w, so each rule needs the other operator and the
factor of w. This is the transposed convolution of Dumoulin and Visin, "A guide to convolution arithmetic for deep
learning" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .sizes import Size, join_sizes, larger, size_of
from .slicing import crop, zero_pad

rules = Registry()


@rules.vjp("Conv", inputs=(0, 1, 2))
def conv(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """dx = ConvTranspose(dy, w), dw = x correlated with dy, db = Σ dy.

    Positions that a stride leaves unread at the end of x have a zero gradient.
    """
    x, w = n.required(0), n.required(1)
    windows, group = _windows_of_conv(n, dy), n.attr("group", 1)
    return (
        lambda: spread(dy, w, x, windows, group),
        lambda: weight_factor(x, dy, w, windows, group),
        lambda: _bias_cotangent(dy),
    )


@rules.vjp("ConvTranspose", inputs=(0, 1, 2))
def conv_transpose(n: Primal, dy: Tensor) -> tuple[Cotangent, ...]:
    """dx = Conv(dy, w), dw = dy correlated with x, db = Σ dy."""
    x, w = n.required(0), n.required(1)
    windows, group = _windows_of_conv_transpose(n), n.attr("group", 1)
    return (
        lambda: correlate(dy, w, x, windows, group),
        lambda: weight_factor(dy, x, w, windows, group),
        lambda: _bias_cotangent(dy),
    )


@dataclass(frozen=True)
class Windows:
    """How the kernel slides along one spatial axis of the long signal.

    Attributes:
        stride: the distance between windows.
        dilation: the distance between the positions within a window.
        before: how many zeros precede the long signal.
        after: how many zeros follow it.
        slack: how many positions of the padded signal follow the last window; None if only known at run time.
    """

    stride: int
    dilation: int
    before: Size
    after: Size
    slack: int | None


def correlate(x: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The short signal of the spatial sizes of *like* from the long signal *x*: a Conv."""
    x, windows = _with_computed_padding(x, windows)
    y = x.op.Conv(x, w, group=group, pads=_pads(windows), **_steps(windows))
    surplus = [axis for axis, each in enumerate(windows, 2) if each.slack is None or each.slack >= each.stride]
    return crop(y, {axis: (0, size_of(like, axis)) for axis in surplus})


def spread(y: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The long signal of the spatial sizes of *like* from the short signal *y*: a ConvTranspose.

    Where the slack is only known at run time, the most that it can be is computed and cut off.
    """
    before, after, extra, bounds = [], [], [], {}
    for axis, each in enumerate(windows, 2):
        start: Size = 0
        if isinstance(each.before, int) and isinstance(each.after, int) and each.slack is not None:
            margin = each.after - each.slack
            before.append(each.before)
        else:
            margin = (each.after if isinstance(each.after, int) else 0) - (each.stride - 1)
            before.append(each.before if isinstance(each.before, int) else 0)
            start = 0 if isinstance(each.before, int) else each.before
            bounds[axis] = (start, start + size_of(like, axis))
        after.append(max(margin, 0))
        extra.append(max(-margin, 0))
    x = y.op.ConvTranspose(y, w, group=group, pads=[*before, *after], output_padding=extra, **_steps(windows))
    return crop(x, bounds)


def weight_factor(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The factor of *w*: the long signal correlated with the short one, a Conv that sums over the batch.

    The short signal is the kernel; so strides and dilations change places.
    """
    x, windows = _with_computed_padding(x, windows)
    op, spatial = x.op, list(range(2, x.rank))
    if group > 1:
        # The groups of a Conv divide its channels, which here are the batch: one batch a group, one after the other.
        sizes = [size_of(x, axis) for axis in (0, *spatial)]
        channels = size_of(w, 1)
        x = x.reshape(join_sizes(op, [sizes[0], group, channels, *sizes[1:]]))
        x = x.transpose([2, 1, 0, *(axis + 1 for axis in spatial)])
        x = x.reshape(join_sizes(op, [channels, sizes[0] * group, *sizes[1:]]))
    else:
        x = x.transpose([1, 0, *spatial])
    factor = op.Conv(
        x,
        y.transpose([1, 0, *spatial]),
        group=group,
        pads=_pads(windows),
        strides=[each.dilation for each in windows],
        dilations=[each.stride for each in windows],
    ).transpose([1, 0, *spatial])
    surplus = [axis for axis, each in enumerate(windows, 2) if _may_exceed(each)]
    return crop(factor, {axis: (0, size_of(w, axis)) for axis in surplus})


def _may_exceed(windows: Windows) -> bool:
    """Whether the slack may hold another position of the kernel."""
    return (windows.stride - 1 if windows.slack is None else windows.slack) >= windows.dilation


def _bias_cotangent(dy: Tensor) -> Tensor:
    return dy.sum([axis for axis in range(dy.rank) if axis != 1])


def _with_computed_padding(x: Tensor, windows: Sequence[Windows]) -> tuple[Tensor, list[Windows]]:
    """Pad *x* where the padding is no constant, so that an attribute cannot say it."""
    computed = {
        axis: (each.before, each.after)
        for axis, each in enumerate(windows, 2)
        if not (isinstance(each.before, int) and isinstance(each.after, int))
    }
    rest = [
        Windows(each.stride, each.dilation, 0, 0, each.slack) if axis in computed else each
        for axis, each in enumerate(windows, 2)
    ]
    return zero_pad(x, computed), rest


def _pads(windows: Sequence[Windows]) -> list[Size]:
    return [*(each.before for each in windows), *(each.after for each in windows)]


def _steps(windows: Sequence[Windows]) -> dict[str, list[int]]:
    return {"strides": [each.stride for each in windows], "dilations": [each.dilation for each in windows]}


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
            start, end = _halves((count - 1) * stride + extent - size, automatic)
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
