"""Convolutions, transposed convolutions and correlations of signals, with windows that slide by given steps.

The three are the partial derivatives of one trilinear form of a long signal x, a short signal y and a kernel w,

    Σ y[n, m, o] w[m, c, k] x[n, c, stride·o + dilation·k - before],

summed over all indices: n the batch, m and c the channels, o and k positions along each spatial axis (V. Dumoulin
and F. Visin, "A guide to convolution arithmetic for deep learning", 2016). In groups, m and c count within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..tape import Tensor
from .sizes import Size, join_sizes, size_of
from .slicing import crop, zero_pad


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

    @property
    def has_known_pads(self) -> bool:
        """Whether the padding can be an attribute."""
        return isinstance(self.before, int) and isinstance(self.after, int)


def convolve(x: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The short signal, of the spatial sizes of *like*, from the long signal *x*: a Conv."""
    x, windows = _with_computed_padding(x, windows)
    y = x.op.Conv(x, w, group=group, pads=_pads(windows), **_steps(windows))
    surplus = [axis for axis, each in enumerate(windows, 2) if each.slack is None or each.slack >= each.stride]
    return crop(y, {axis: (0, size_of(like, axis)) for axis in surplus})


def convolve_transposed(y: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The long signal, of the spatial sizes of *like*, from the short signal *y*: a ConvTranspose.

    Where the slack is only known at run time, the most that it can be is computed and cut off.
    """
    before, after, extra, bounds = [], [], [], {}
    for axis, each in enumerate(windows, 2):
        start = each.before if isinstance(each.before, int) else 0
        end = each.after if isinstance(each.after, int) else 0
        if each.has_known_pads and each.slack is not None:
            end -= each.slack
        else:
            end -= each.stride - 1
            first: Size = 0 if isinstance(each.before, int) else each.before
            bounds[axis] = (first, first + size_of(like, axis))
        before.append(start)
        after.append(max(end, 0))
        extra.append(max(-end, 0))
    x = y.op.ConvTranspose(y, w, group=group, pads=[*before, *after], output_padding=extra, **_steps(windows))
    return crop(x, bounds)


def correlate(x: Tensor, y: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The kernel, of the spatial sizes of *like*, from the two signals: a Conv that sums over the batch.

    The short signal is its kernel; so strides and dilations change places. What no window meets, padding or the end
    of the signal, is left out: with it the Conv would compute taps beyond those of the kernel. Where only those can be
    cut off, the derivative pads a kernel at run time; a Pad by constants ONNX Runtime would take for the signal's.
    """
    windows = [_without_surplus(each) for each in windows]
    x, windows = _with_computed_padding(x, windows)
    ends = {axis: each.slack for axis, each in enumerate(windows, 2) if each.slack and _may_hold_another_tap(each)}
    x = crop(x, {axis: (0, -slack) for axis, slack in ends.items()})
    windows = [replace(each, slack=0) if axis in ends else each for axis, each in enumerate(windows, 2)]
    swapped = [1, 0, *range(2, x.rank)]
    w = x.op.Conv(
        x.transpose(swapped) if group == 1 else _batch_by_groups(x, size_of(like, 1), group),
        y.transpose(swapped),
        group=group,
        pads=_pads(windows),
        strides=[each.dilation for each in windows],
        dilations=[each.stride for each in windows],
    ).transpose(swapped)
    surplus = [axis for axis, each in enumerate(windows, 2) if _may_hold_another_tap(each)]
    return crop(w, {axis: (0, size_of(like, axis)) for axis in surplus})


def _batch_by_groups(x: Tensor, channels: Size, group: int) -> Tensor:
    """*x* (batch, group · channels, …) as (channels, group · batch, …), the whole batch of one group after another."""
    batch, *positions = [size_of(x, axis) for axis in (0, *range(2, x.rank))]
    x = x.reshape(join_sizes(x.op, [batch, group, channels, *positions]))
    x = x.transpose([2, 1, 0, *range(3, x.rank)])
    return x.reshape(join_sizes(x.op, [channels, batch * group, *positions]))


def _without_surplus(windows: Windows) -> Windows:
    """The windows without the zeros that follow the last one."""
    if windows.slack is None or not isinstance(windows.after, int):
        return windows
    surplus = min(windows.slack, windows.after)
    return replace(windows, after=windows.after - surplus, slack=windows.slack - surplus)


def _may_hold_another_tap(windows: Windows) -> bool:
    """Whether the kernel may take another step within the slack."""
    return (windows.stride - 1 if windows.slack is None else windows.slack) >= windows.dilation


def _with_computed_padding(x: Tensor, windows: Sequence[Windows]) -> tuple[Tensor, list[Windows]]:
    """Pad *x* where the padding is no constant, so that an attribute cannot say it."""
    computed = {axis: (each.before, each.after) for axis, each in enumerate(windows, 2) if not each.has_known_pads}
    rest = [
        Windows(each.stride, each.dilation, 0, 0, each.slack) if axis in computed else each
        for axis, each in enumerate(windows, 2)
    ]
    return zero_pad(x, computed), rest


def _pads(windows: Sequence[Windows]) -> list[Size]:
    return [*(each.before for each in windows), *(each.after for each in windows)]


def _steps(windows: Sequence[Windows]) -> dict[str, list[int]]:
    return {"strides": [each.stride for each in windows], "dilations": [each.dilation for each in windows]}
