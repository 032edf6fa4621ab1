"""The gradients of convolutions in the form that suits their sizes.

Convolutions and correlations as matrix products, beside those of `sliding_windows`; which of them is expected to be
the fastest says `convolution_gradients`. In shapes, N is the batch, G the groups, M and C the channels of one group
of the short and the long signal, and P the positions of the short signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache, partial
from itertools import product
from math import prod

import numpy as np
import onnx_ir as ir

from ..convolution_gradients import ConvolutionSizes, InputForm, WeightForm, input_form, is_depthwise, weight_form
from ..correlations import mark_correlation
from ..forms import Alternatives
from ..registry import Primal
from ..tape import Tensor
from .sizes import join_sizes, larger, size_of
from .slicing import crop, zero_pad
from .sliding_windows import Windows, convolve, convolve_transposed, correlate

_MOST_TAPS = 64
"""A form that emits nodes for each tap is no choice beyond this: it would swell the graph."""

_LONGEST_ROW = 64
"""Of a product of rows by rows that many elements wide, about a twentieth is needed."""


def long_cotangent(y: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], group: int) -> Alternatives:
    """The cotangent of the long signal, of the spatial sizes of *like*, from that of the short one."""
    forms: dict[Enum, Callable[..., Tensor]] = {
        InputForm.TRANSPOSED: partial(convolve_transposed, windows=windows, group=group)
    }
    sizes = _sizes(like, y, w, windows, group)
    reversed_windows = None if sizes is None else _reversed_windows(windows, sizes.kernel)
    if sizes is not None and reversed_windows is not None:
        forms[InputForm.REVERSED_KERNEL] = partial(_convolve_by_reversed_kernel, windows=reversed_windows, sizes=sizes)
        if group == 1 and prod(sizes.kernel) <= _MOST_TAPS:
            forms[InputForm.COLUMNS] = partial(_multiply_columns, windows=reversed_windows, sizes=sizes)
    expected = InputForm.TRANSPOSED if sizes is None else input_form(sizes)
    return _alternatives("input gradient of a convolution", (y, w, like), windows, group, forms, expected)


def weight_cotangent(n: Primal, x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """The cotangent of the kernel *w* of the node *n*: the correlation of the long signal *x* with the short one *y*.

    It stays one Conv for the passes that follow, and is marked for `LowerCorrelations`. A kernel of one tap is a
    product of matrices from the start.
    """
    if w.static_shape is None or prod(w.static_shape[2:]) == 1:
        return n.fastest(weight_forms(x, y, w, windows, group))
    correlation = correlate(x, y, w, windows, group)
    mark_correlation(correlation, w.static_shape)
    return correlation


def weight_forms(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], group: int) -> Alternatives:
    """The forms of the correlation of the long signal with the short one, of the shape of *w*.

    One product for each tap serves where columns cannot express the windows, or the sizes of rows are not known.
    """
    forms: dict[Enum, Callable[..., Tensor]] = {
        WeightForm.CONVOLUTION: partial(_correlate_any_batch, windows=windows, group=group)
    }
    sizes = _sizes(x, y, w, windows, group)
    if sizes is not None and prod(sizes.kernel) <= _MOST_TAPS:
        by_taps = partial(_correlate_by_taps, windows=windows, sizes=sizes)
        forms |= {
            WeightForm.TAPS: partial(by_taps, gathered=False),
            WeightForm.GATHERED_TAPS: partial(by_taps, gathered=True),
            WeightForm.TAPS_OVER_BATCH: partial(_correlate_over_batch, windows=windows, sizes=sizes),
        }
        if group == 1 and windows[0].stride == 1 < sizes.kernel[0] and windows[0].has_known_pads:
            forms[WeightForm.SHIFTS] = partial(_correlate_by_shifts, windows=windows, sizes=sizes)
        reversed_windows = _reversed_windows(windows, sizes.kernel)
        if group == 1 and reversed_windows is not None:
            forms[WeightForm.COLUMNS] = partial(_correlate_columns, windows=reversed_windows, sizes=sizes)
    depthwise = sizes is not None and is_depthwise(sizes) and sizes.short_positions is not None
    if sizes is not None and depthwise and _has_short_rows(x, windows):
        forms[WeightForm.ROWS] = partial(_correlate_by_rows, windows=windows, sizes=sizes)
    expected = WeightForm.CONVOLUTION if sizes is None else weight_form(sizes)
    if expected not in forms:
        expected = WeightForm.TAPS_OVER_BATCH if expected is WeightForm.COLUMNS else WeightForm.TAPS
    return _alternatives("weight gradient of a convolution", (x, y, w), windows, group, forms, expected)


def _correlate_any_batch(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], group: int) -> Tensor:
    """One Conv over the batch. ONNX Runtime leaves what it sums over no samples as it finds the memory."""
    op, gradient, batch = x.op, correlate(x, y, w, windows, group), x.shape[0]
    if isinstance(batch, int) and batch > 0:
        return gradient
    return op.Where(op.Size(x) > 0, gradient, op.constant(0, gradient.dtype))


def _alternatives(
    family: str,
    operands: tuple[Tensor, ...],
    windows: Sequence[Windows],
    group: int,
    forms: Mapping[Enum, Callable[..., Tensor]],
    expected: Enum,
) -> Alternatives:
    """The forms that can express the windows: the first of *forms* always can, and is expected if *expected* is not.

    That one is the plain one, too.
    Padding that is computed in the graph cannot be emitted elsewhere, for a measurement: then there is no choice.
    """
    chosen = expected if expected in forms else next(iter(forms))
    attributes: dict[str, object] = {"group": group}
    if all(each.has_known_pads for each in windows):
        attributes["windows"] = [list(vars(each).values()) for each in windows]
    else:
        forms = {chosen: forms[chosen]}
    named = {form.name: emit for form, emit in forms.items()}
    return Alternatives(family, operands, attributes, named, expected=chosen.name, plain=next(iter(named)))


def _sizes(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], group: int) -> ConvolutionSizes | None:
    """The sizes; None where those of the kernel are not known."""
    if w.static_shape is None:
        return None
    short_channels, long_channels, *kernel = w.static_shape
    return ConvolutionSizes(
        groups=group,
        long_channels=long_channels,
        short_channels=short_channels // group,
        kernel=tuple(kernel),
        strides=tuple(each.stride for each in windows),
        long_positions=_positions(x),
        short_positions=_positions(y),
    )


def _positions(signal: Tensor) -> int | None:
    known = [dim for dim in signal.shape[2:] if isinstance(dim, int)]
    return prod(known) if len(known) == signal.rank - 2 else None


def _reversed_windows(windows: Sequence[Windows], kernel: Sequence[int]) -> list[Windows] | None:
    """The windows of the Conv by the reversed kernel; None at a greater stride, or where padding would be negative."""
    result = []
    for each, size in zip(windows, kernel, strict=True):
        reach = (size - 1) * each.dilation
        if each.stride > 1 or not (isinstance(each.before, int) and isinstance(each.after, int)):
            return None
        if max(each.before, each.after) > reach:
            return None
        result.append(Windows(1, each.dilation, reach - each.before, reach - each.after, 0))
    return result


def _convolve_by_reversed_kernel(
    y: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes
) -> Tensor:
    """The long signal by a Conv of the short one: the kernel is reversed, its channels change places."""
    op, spatial = y.op, range(2, w.rank)
    if prod(sizes.kernel) > 1:
        start, end = op.ints([-1] * len(spatial)), op.ints([np.iinfo(np.int64).min] * len(spatial))
        w = op.Slice(w, start, end, op.ints(spatial), op.ints([-1] * len(spatial)))
    if sizes.groups == 1:
        w = w.transpose([1, 0, *spatial])
    else:
        w = w.reshape([sizes.groups, sizes.short_channels, sizes.long_channels, *sizes.kernel])
        w = w.transpose([0, 2, 1, *(axis + 1 for axis in spatial)])
        w = w.reshape([sizes.groups * sizes.long_channels, sizes.short_channels, *sizes.kernel])
    return convolve(y, w, like, windows, sizes.groups)


def _columns(y: Tensor, like: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes) -> Tensor:
    """The elements of *y* that each position of the long signal *like* meets, tap by tap: (taps · M, N · positions).

    The *windows* are those of the reversed kernel.
    """
    swapped = y.transpose([1, 0, *range(2, y.rank)])
    taps = list(_taps(swapped, like, windows, sizes.kernel))
    return _concatenate(taps[::-1], axis=0).reshape([prod(sizes.kernel) * sizes.short_channels, -1])


def _multiply_columns(
    y: Tensor, w: Tensor, like: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes
) -> Tensor:
    """The long signal by one product over the taps and channels: (C, taps · M) by (taps · M, N · positions)."""
    taps_first = w.reshape([sizes.short_channels, sizes.long_channels, -1]).transpose([1, 2, 0])
    x = y.op.Gemm(taps_first.reshape([sizes.long_channels, -1]), _columns(y, like, windows, sizes))
    batch_and_positions = [size_of(like, axis) for axis in (0, *range(2, like.rank))]
    shape = join_sizes(y.op, [sizes.long_channels, *batch_and_positions])
    return x.reshape(shape).transpose([1, 0, *range(2, like.rank)])


def _correlate_columns(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes) -> Tensor:
    """The kernel by one product over the batch and positions: (taps · M, N · positions) by (C, N · positions)."""
    rows = x.transpose([1, 0, *range(2, x.rank)]).reshape([sizes.long_channels, -1])
    products = x.op.Gemm(_columns(y, x, windows, sizes), rows, transB=1)
    products = products.reshape([*sizes.kernel, sizes.short_channels, sizes.long_channels])
    return products.transpose([w.rank - 2, w.rank - 1, *range(w.rank - 2)])


def _correlate_by_taps(
    x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes, *, gathered: bool
) -> Tensor:
    """Σ y xᵀ over the batch, for each tap: (N, G, M, P) by (N, G, C, P)."""
    return _taps_last(_products_of_taps(x, y, windows, sizes, gathered=gathered), w, sizes)


def _products_of_taps(
    x: Tensor, y: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes, *, gathered: bool
) -> Tensor:
    """The products of `_correlate_by_taps`, side by side: (G, M, taps · C)."""
    rows = _matrices(y, sizes.short_channels, sizes)
    taps = (_matrices(tap, sizes.long_channels, sizes) for tap in _taps(x, y, windows, sizes.kernel))
    columns = [_concatenate(list(taps), axis=rows.rank - 2)] if gathered else taps
    products = [rows @ each.swap_last_two() for each in columns]
    return _concatenate(products, axis=rows.rank - 1).sum([0])


def _correlate_by_shifts(
    x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes
) -> Tensor:
    """As `_correlate_by_taps`, of *y* as each tap of the first axis shifts it, side by side: (N, taps · M, P).

    What is shifted beyond *x* is cut off: it meets zeros.
    """
    first, (count, *rest), met = windows[0], sizes.kernel, size_of(x, 2)
    assert isinstance(first.before, int)
    ahead = max((count - 1) * first.dilation - first.before, 0)
    padded = zero_pad(y, {2: (ahead, larger(met - size_of(y, 2) + first.before, 0))})
    starts = [ahead + first.before - tap * first.dilation for tap in range(count)]
    shifted = [crop(padded, {2: (start, start + met)}) for start in starts]
    beside = replace(sizes, short_channels=count * sizes.short_channels, kernel=(1, *rest))
    products = _products_of_taps(
        x, _concatenate(shifted, axis=1), [Windows(1, 1, 0, 0, 0), *windows[1:]], beside, gathered=False
    )
    products = products.reshape([count, sizes.short_channels, *rest, sizes.long_channels])
    return products.transpose([1, products.rank - 1, 0, *range(2, products.rank - 1)])


def _correlate_over_batch(
    x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes
) -> Tensor:
    """y xᵀ for each tap: (G, M, N·P) by (G, C, N·P)."""
    swapped = [1, 0, *range(2, x.rank)]
    x, y, groups = x.transpose(swapped), y.transpose(swapped), _groups(sizes)
    rows = y.reshape([*groups, sizes.short_channels, -1])
    products = []
    for tap in _taps(x, y, windows, sizes.kernel):
        columns = tap.reshape([*groups, sizes.long_channels, -1])
        products.append(rows @ columns.swap_last_two() if groups else y.op.Gemm(rows, columns, transB=1))
    gradient = _taps_last(_concatenate(products, axis=rows.rank - 1), w, sizes)
    return _zero_without_samples(gradient, x) if groups else gradient


def _has_short_rows(x: Tensor, windows: Sequence[Windows]) -> bool:
    """Whether products of rows by rows can be picked from, and are not far larger than what is picked."""
    width = x.shape[3]
    return windows[1].has_known_pads and isinstance(width, int) and width <= _LONGEST_ROW


def _correlate_by_rows(x: Tensor, y: Tensor, w: Tensor, windows: Sequence[Windows], sizes: ConvolutionSizes) -> Tensor:
    """yᵀ x for each channel and row of taps: (G, N·H, W) by (G, N·H, V), the rows of V elements that meet those of y.

    Of each product (W, V) the elements are summed up at which a tap meets an element of y; beyond the rows it meets
    zero.
    """
    op, channels, (tall, wide) = x.op, sizes.groups, sizes.kernel
    down, across = windows
    assert isinstance(across.before, int)
    height, width, met = (dim for dim in (*y.shape[2:], x.shape[3]) if isinstance(dim, int))
    x, y = x.transpose([1, 0, 2, 3]), y.transpose([1, 0, 2, 3])
    padded = zero_pad(x, {2: (down.before, down.after)})
    columns = y.reshape([channels, -1, width]).swap_last_two()
    products = []
    for start in range(0, tall * down.dilation, down.dilation):
        end = start + (height - 1) * down.stride + 1
        rows = op.Slice(padded, op.ints([start]), op.ints([end]), op.ints([2]), op.ints([down.stride]))
        products.append((columns @ rows.reshape([channels, -1, met])).reshape([channels, width * met]))
    beside = _concatenate([*products, op.constant(np.zeros((channels, 1)), x.dtype)], axis=1)
    tap, column, element = np.ogrid[:tall, :wide, :width]
    across_row = element * across.stride + column * across.dilation - across.before
    inside = (across_row >= 0) & (across_row < met)
    positions = np.where(inside, (tap * width + element) * met + across_row, tall * width * met)
    picked = op.Gather(beside, op.constant(positions, ir.DataType.INT64), axis=1)
    return _zero_without_samples(picked.sum([-1]).reshape_like(w), x)


def _zero_without_samples(gradient: Tensor, x: Tensor) -> Tensor:
    """*gradient*, which products over the samples of *x* gave; x has the samples as its second axis.

    ONNX Runtime 1.31 sets only the first of several products over no elements to zero.
    """
    samples = size_of(x, 1)
    return gradient if isinstance(samples, int) else x.op.Where(samples > 0, gradient, x.op.constant(0, x.dtype))


def _taps_last(products: Tensor, w: Tensor, sizes: ConvolutionSizes) -> Tensor:
    """The products (G, M, taps · C) in the shape of the kernel *w*, whose taps follow the channels.

    A reshaping behind the transposition, the runtime would move before it; and what it moves to the end of a graph, and
    all that this needs, it runs first, against the schedule.
    """
    if prod(sizes.kernel) == 1:
        return products.reshape_like(w)
    products = products.reshape([sizes.groups * sizes.short_channels, *sizes.kernel, sizes.long_channels])
    return products.transpose([0, w.rank - 1, *range(1, w.rank - 1)])


def _taps(x: Tensor, y: Tensor, windows: Sequence[Windows], kernel: Sequence[int]) -> Iterator[Tensor]:
    """For each tap in row-major order, the positions of the padded long signal *x* that it meets, shaped like *y*."""
    padded = zero_pad(x, {axis: (each.before, each.after) for axis, each in enumerate(windows, 2)})
    last = x.rank - 1

    def cut(signal: Tensor, taps: Mapping[int, int]) -> Tensor:
        starts, ends, axes, steps = [], [], [], []
        for axis, tap in taps.items():
            each = windows[axis - 2]
            if kernel[axis - 2] > 1 or each.stride > 1 or each.slack != 0:
                start = tap * each.dilation
                starts.append(start)
                ends.append((size_of(y, axis) - 1) * each.stride + start + 1)
                axes.append(axis)
                steps.append(each.stride)
        if not axes:
            return signal
        op = signal.op
        return op.Slice(signal, op.ints(starts), join_sizes(op, ends), op.ints(axes), op.ints(steps))

    cut_last = cache(lambda tap: cut(padded, {last: tap}))
    for taps in product(*map(range, kernel)):
        if windows[-1].stride > 1:
            # Every few elements of a row are slow to copy: each column of taps does that once.
            yield cut(cut_last(taps[-1]), dict(enumerate(taps[:-1], 2)))
        else:
            yield cut(padded, dict(enumerate(taps, 2)))


def _matrices(signal: Tensor, channels: int, sizes: ConvolutionSizes) -> Tensor:
    """*signal* as (N, G, channels, P), without G if there is one group."""
    rest = [*_groups(sizes), channels]
    positions = _positions(signal)
    if positions is not None:
        return signal.reshape([-1, *rest, positions])
    return signal.reshape(join_sizes(signal.op, [size_of(signal, 0), *rest, -1]))


def _groups(sizes: ConvolutionSizes) -> list[int]:
    return [sizes.groups] if sizes.groups > 1 else []


def _concatenate(tensors: Sequence[Tensor], axis: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else tensors[0].op.Concat(*tensors, axis=axis)
