"""The adjoint of resizing a long axis, block by block.

An output of Resize reads few inputs near it, so that the matrix of a long axis is a band: a product with all of it
takes time, and memory, by the square of its length. Of a block of inputs a window of the outputs is all that matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from ..registry import Primal
from ..tape import Tensor
from .sizes import join_sizes
from .slicing import crop, zero_pad

BLOCK = 32
"""The inputs of a block: enough to fill a product, few enough that most of its window is not zero."""
LEAST_GAIN = 5
"""How many times as many elements the whole matrix must have, since blocks are copied as well."""

_REACH = {"nearest": 1.0, "linear": 1.0, "cubic": 2.0}
"""How many inputs to either side of its own place an output reads at most."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of inputs, and the window of the outputs that read each.

    Attributes:
        inputs: how many there are.
        starts: the first output of each window, maybe before the first there is.
        length: of a window.
    """

    inputs: int
    starts: tuple[int, ...]
    length: int

    def margin(self, outputs: int) -> tuple[int, int]:
        """How far windows reach beyond the outputs on either side."""
        return max(0, -self.starts[0]), max(0, self.starts[-1] + self.length - outputs)


def find_blocks(n: Primal, inputs: int, outputs: int, scale: float | None) -> Blocks | None:
    """The blocks of an axis of *inputs* elements that Resize makes *outputs*; None where the whole matrix is as good.

    Args:
        scale: the node's own, if it has one; else the ratio of the sizes counts.
    """
    place = n.attr("coordinate_transformation_mode", "half_pixel")
    if min(inputs, outputs) < 2 or place == "tf_crop_and_resize":
        return None
    factor = (outputs - 1) / (inputs - 1) if place == "align_corners" else scale or outputs / inputs
    shift = 0.5 if "half_pixel" in place else 0.0
    spread = 1 / factor if n.attr("antialias", 0) and factor < 1 else 1.0
    # One more to either side, for what rounding moves, and sizes that are no multiple of the scale.
    reach = _REACH[n.attr("mode", "nearest")] * spread + 1
    length = ceil((BLOCK + 2 * reach) * factor) + 2
    if 2 * reach + 1 >= BLOCK or length * LEAST_GAIN > outputs:
        return None
    starts = [floor((first - reach + shift) * factor - shift) for first in range(0, inputs, BLOCK)]
    return Blocks(inputs, tuple(starts), length)


def apply_in_blocks(resize: Callable[[Tensor], Tensor], comb: Tensor, dy: Tensor, axis: int, blocks: Blocks) -> Tensor:
    """The cotangent of the inputs of Resize along *axis* from that of its outputs, *dy*.

    The weights are read off what the node makes of combs: rows with a 1 at the same place of every second block, so
    far apart that no output reads two of them.

    Args:
        resize: what the node makes of the rows of a matrix: (rows, inputs) to (rows, outputs).
        comb: the identity, of twice as many rows as a block has inputs.
    """
    op, outputs, count = dy.op, dy.shape[axis], len(blocks.starts)
    assert isinstance(outputs, int)
    margin = blocks.margin(outputs)
    places = op.ints(np.add.outer(np.array(blocks.starts) + margin[0], np.arange(blocks.length)).ravel())

    combs = crop(op.Tile(comb, op.ints([1, ceil(count / 2)])), {1: (0, blocks.inputs)})
    weights = op.Gather(zero_pad(resize(combs), {1: margin}), places, axis=1)
    weights = weights.reshape([2, BLOCK, count, blocks.length])
    own = np.equal.outer(np.arange(2), np.arange(count) % 2)[:, None, :, None]
    weights = (weights * op.constant(own, weights.dtype)).sum([0]).transpose([1, 0, 2]).cast(dy.dtype)

    others = [other for other in range(dy.rank) if other != axis]
    perm = [*others[:-1], axis, others[-1]]
    rows = dy.rank - 2
    windows = op.Gather(zero_pad(dy.transpose(perm), {rows: margin}), places, axis=rows)
    before, behind = windows.sizes(range(rows)), windows.sizes([rows + 1])
    products = weights @ windows.reshape(join_sizes(op, [before, count, blocks.length, behind]))
    merged = products.reshape(join_sizes(op, [before, count * BLOCK, behind]))
    inverse = [perm.index(other) for other in range(dy.rank)]
    return crop(merged, {rows: (0, blocks.inputs)}).transpose(inverse)
