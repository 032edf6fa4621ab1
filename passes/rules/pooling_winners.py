"""The gradient of a MaxPool whose windows share no elements, by comparisons instead of indices.

ONNX Runtime's MaxPool takes up to ten times as long when it gives out indices as well, and scatters on one thread.
Instead each *tap*, which is what all windows have at one place, is compared with the maxima, to find which of them is
the *winner*. The backward part then reads the input of the pool instead of indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import onnx_ir as ir

from ..tape import Tensor
from .masking import masked
from .pooling_windows import PoolingWindows
from .slicing import crop, zero_pad

MOST_TAPS = 16
"""Larger windows would swell the graph."""


@dataclass(frozen=True)
class Cells:
    """How windows lie side by side along one spatial axis. A cell is a window and what lies between it and the next.

    Attributes:
        size: of the input; *count*: how many cells.
        kernel, stride: the lengths of a window and of a cell.
    """

    size: int
    count: int
    kernel: int
    stride: int

    @property
    def end(self) -> int:
        """Where the last cell ends."""
        return self.count * self.stride


def find_cells(windows: Sequence[PoolingWindows]) -> list[Cells] | None:
    """The cells along each axis if the windows, not many taps each, lie side by side over sizes that are known."""
    cells = []
    for each in windows:
        side_by_side = each.before == 0 and each.dilation == 1 and each.kernel <= each.stride
        if not side_by_side or not isinstance(each.size, int) or not isinstance(each.count, int):
            return None
        cells.append(Cells(each.size, each.count, each.kernel, each.stride))
    few = prod(each.kernel for each in cells) <= MOST_TAPS
    return cells if few and all(0 < each.end <= each.size for each in cells) else None


def winners(x: Tensor, y: Tensor, cells: Sequence[Cells]) -> Tensor:
    """The number, from 0, of the tap that each maximum is: uint8, in rows (`_in_rows`).

    Of several it is the first, and where none equals the maximum: that of NaN may be NaN, and ONNX Runtime's of nothing
    but infinities below zero is the lowest finite number.

    Args:
        x: what was pooled, (batch, channels, *spatial sizes).
        y: the maxima.
        cells: along each spatial axis.
    """
    op, maxima = x.op, _in_rows(y, cells)
    inside = crop(x, {axis: (0, each.end) for axis, each in enumerate(cells, 2) if each.end < each.size})
    winner = op.constant(0, ir.DataType.UINT8)
    for number, tap in reversed(list(enumerate(_taps(inside, cells)))):
        winner = op.Where(tap.equals(maxima), op.constant(number, winner.dtype), winner)
    return winner


def to_winners(dy: Tensor, winner: Tensor, like: Tensor, cells: Sequence[Cells]) -> Tensor:
    """Zeros of the shape of *like*, but *dy* at the winners."""
    rows = _in_rows(dy, cells)
    shares = [masked(rows, winner.equals(number)) for number in range(len(_places(cells)))]
    margins = {axis: (0, each.size - each.end) for axis, each in enumerate(cells, 1)}
    return zero_pad(_put_together(shares, cells), margins).reshape_like(like)


def _in_rows(y: Tensor, cells: Sequence[Cells]) -> Tensor:
    """A tensor of an element for each window as a matrix: a row for each plane and place along the first axis."""
    return y.reshape([-1, prod(each.count for each in cells[1:])])


def _places(cells: Sequence[Cells]) -> list[tuple[int, ...]]:
    """Where the taps are in a window."""
    return list(product(*(range(each.kernel) for each in cells)))


def _taps(x: Tensor, cells: Sequence[Cells]) -> list[Tensor]:
    """What all windows have at each place, in rows.

    It is cut apart along one axis after the other, the last one first: a Slice with steps takes twice as long.
    """
    parts: dict[tuple[int, ...], Tensor] = {(): x}
    inner = 1
    for each in reversed(cells):
        parts = {
            (index, *place): piece
            for place, part in parts.items()
            for index, piece in enumerate(_split(part.reshape([-1, each.stride * inner]), each.stride)[: each.kernel])
        }
        inner *= each.count
    return [_in_rows(parts[place], cells) for place in _places(cells)]


def _split(x: Tensor, count: int) -> Sequence[Tensor]:
    return [x] if count == 1 else x.op.emit_many("Split", x, outputs=count, axis=1, num_outputs=count)


def _put_together(taps: Sequence[Tensor], cells: Sequence[Cells]) -> Tensor:
    """The inverse, with zeros between the windows: (planes, *ends)."""
    op = taps[0].op
    parts = dict(zip(_places(cells), taps, strict=True))
    inner = prod(each.count for each in cells)
    for each in cells:
        inner //= each.count
        merged = {}
        for place in dict.fromkeys(place[1:] for place in parts):
            pieces = [parts[index, *place].reshape([-1, inner]) for index in range(each.kernel)]
            pieces += [op.zeros_like(pieces[0])] * (each.stride - each.kernel)
            merged[place] = op.Concat(*pieces, axis=1) if len(pieces) > 1 else pieces[0]
        parts = merged
    return parts[()].reshape([-1, *(each.end for each in cells)])
