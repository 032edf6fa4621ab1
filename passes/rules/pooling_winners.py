"""The gradient of a MaxPool whose windows share no elements, by comparisons instead of indices.

ONNX Runtime's MaxPool takes up to ten times as long when it gives out indices as well, and scatters on one thread.
Instead each *tap*, which is what all windows have at one place, is compared with the maxima. Of which tap a maximum
is, the *winner*, takes one byte to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import onnx_ir as ir

from ..tape import Tensor
from .masking import masked
from .pooling_windows import PoolingWindows
from .slicing import crop, zero_pad

MOST_TAPS = 16
"""Larger windows would swell the graph."""


def have_winners(windows: Sequence[PoolingWindows]) -> bool:
    """Whether the windows, not many taps each, lie side by side over sizes that are known."""
    return prod(each.kernel for each in windows) <= MOST_TAPS and all(
        isinstance(each.size, int)
        and isinstance(each.count, int)
        and each.before == 0
        and each.dilation == 1
        and each.kernel <= each.stride
        and 0 < each.count * each.stride <= each.size
        for each in windows
    )


def winners(x: Tensor, y: Tensor, windows: Sequence[PoolingWindows]) -> Tensor:
    """The number, from 0, of the tap that each maximum is: uint8, in rows (`_in_rows`).

    Of several it is the first, and where none equals the maximum: that of NaN may be NaN, and ONNX Runtime's of nothing
    but infinities below zero is the lowest finite number.

    Args:
        x: what was pooled, (batch, channels, *spatial sizes).
        y: the maxima.
        windows: of each spatial axis; they `have_winners`.
    """
    op, maxima = x.op, _in_rows(y, windows)
    cells = crop(x, {axis: (0, end) for axis, end in enumerate(_ends(windows), 2) if end != x.shape[axis]})
    winner = op.constant(0, ir.DataType.UINT8)
    for number, tap in reversed(list(enumerate(_taps(cells, windows)))):
        winner = op.Where(tap.equals(maxima), op.constant(number, winner.dtype), winner)
    return winner


def to_winners(dy: Tensor, winner: Tensor, like: Tensor, windows: Sequence[PoolingWindows]) -> Tensor:
    """Zeros of the shape of *like*, but *dy* at the winners."""
    rows = _in_rows(dy, windows)
    shares = [masked(rows, winner.equals(number)) for number in range(len(_places(windows)))]
    ends = list(zip(like.shape[2:], _ends(windows), strict=True))
    cells = _put_together(shares, windows).reshape([-1, *(end for _, end in ends)])
    return zero_pad(cells, {axis: (0, size - end) for axis, (size, end) in enumerate(ends, 1)}).reshape_like(like)


def _in_rows(y: Tensor, windows: Sequence[PoolingWindows]) -> Tensor:
    """A tensor of an element for each window as a matrix: a row for each plane and place along the first axis."""
    return y.reshape([-1, prod(each.count for each in windows[1:])])


def _places(windows: Sequence[PoolingWindows]) -> list[tuple[int, ...]]:
    """Where the taps are in a window."""
    return list(product(*(range(each.kernel) for each in windows)))


def _ends(windows: Sequence[PoolingWindows]) -> list[int]:
    """Where the last cell ends along each axis. A cell is a window and what lies between it and the next."""
    return [each.count * each.stride for each in windows]


def _taps(x: Tensor, windows: Sequence[PoolingWindows]) -> list[Tensor]:
    """What all windows have at each place, in rows.

    It is cut apart along one axis after the other, the last one first: a Slice with steps takes twice as long.
    """
    parts: dict[tuple[int, ...], Tensor] = {(): x}
    inner = 1
    for each in reversed(windows):
        parts = {
            (index, *place): piece
            for place, part in parts.items()
            for index, piece in enumerate(_split(part.reshape([-1, each.stride * inner]), each.stride)[: each.kernel])
        }
        inner *= each.count
    return [_in_rows(parts[place], windows) for place in _places(windows)]


def _split(x: Tensor, count: int) -> Sequence[Tensor]:
    return [x] if count == 1 else x.op.emit_many("Split", x, outputs=count, axis=1, num_outputs=count)


def _put_together(taps: Sequence[Tensor], windows: Sequence[PoolingWindows]) -> Tensor:
    """The inverse, with zeros between the windows: (planes, *ends)."""
    op = taps[0].op
    parts = dict(zip(_places(windows), taps, strict=True))
    inner = prod(each.count for each in windows)
    for each in windows:
        inner //= each.count
        merged = {}
        for place in dict.fromkeys(place[1:] for place in parts):
            pieces = [parts[index, *place].reshape([-1, inner]) for index in range(each.kernel)]
            pieces += [op.zeros_like(pieces[0])] * (each.stride - each.kernel)
            merged[place] = op.Concat(*pieces, axis=1) if len(pieces) > 1 else pieces[0]
        parts = merged
    return parts[()].reshape([-1, *_ends(windows)])
