"""Computation in blocks of rows, which keeps nothing of the size of all rows' intermediate values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from .rules.sizes import join_sizes, size_of
from .rules.slicing import TO_THE_END, crop
from .subgraphs import KEEPS_NOTHING
from .tape import Tape, Tensor


def in_blocks(
    op: Tape,
    block: int,
    rows: Sequence[tuple[Tensor, int]],
    compute: Callable[[Tape, Sequence[Tensor]], Tensor],
    axis: int,
) -> Tensor:
    """What *compute* gives for all rows, one block of them after the other: a Scan marked `KEEPS_NOTHING`.

    Args:
        block: the number of rows in a block. Where it is no divisor, copies of the last row fill the last block.
        rows: tensors with the axis, counted from the end (-1 is the last), that the rows lie along.
        compute: emits on the tape of the body the values of a block, given the block's part of each of *rows*. What
            else it reads the body captures. It must be a function of each row apart.
        axis: of the result, counted likewise.
    """
    inner = op.body()
    count = size_of(rows[0][0], rows[0][1])
    blocks = -(-count // block) if isinstance(count, int) else (count + (block - 1)) / block
    stacked, slices, axes = [], [], []
    for tensor, row in rows:
        at = row + tensor.rank
        sizes = [size_of(tensor, each) for each in range(tensor.rank)]
        filled = _filled(tensor, at, blocks * block - count)
        stacked.append(filled.reshape(join_sizes(op, [*sizes[:at], blocks, block, *sizes[at + 1 :]])))
        shape = [*tensor.shape[:at], block, *tensor.shape[at + 1 :]]
        slices.append(inner.argument(f"{tensor.value.name}.block", tensor.dtype, shape))
        axes.append(at)
    result = compute(inner, slices)
    inner.returns(result)
    at = axis + result.rank
    outside = dict(op.metadata)
    op.at(op.prefix, {**outside, KEEPS_NOTHING: "1"})
    given = op.Scan(*stacked, body=inner.graph, num_scan_inputs=len(rows), scan_input_axes=axes, scan_output_axes=[at])
    op.at(op.prefix, outside)
    known = blocks if isinstance(blocks, int) else None
    given.value.type = ir.TensorType(result.dtype)
    given.value.shape = ir.Shape([*result.shape[:at], known, *result.shape[at:]])
    sizes = [size_of(given, each) for each in range(result.rank + 1)]
    merged = given.reshape(join_sizes(op, [*sizes[:at], blocks * block, *sizes[at + 2 :]]))
    return merged if blocks * block == count else crop(merged, {at: (0, count)})


def rows_of_a_block(count: int, most: int) -> int:
    """The rows of each block: a divisor of *count* from half of *most* on, or else the share of as few blocks."""
    divisors = (size for size in range(most, most // 2, -1) if count % size == 0)
    return next(divisors, math.ceil(count / math.ceil(count / most)))


def _filled(tensor: Tensor, axis: int, missing: int | Tensor) -> Tensor:
    """*tensor* with so many copies of its last slice behind it: as real as any, so that they make no NaN."""
    if isinstance(missing, int) and missing == 0:
        return tensor
    op = tensor.op
    last = crop(tensor, {axis: (-1, TO_THE_END)})
    # Inference does not see that this is one slice, and would take it that the copies are as many as that.
    last.value.shape = ir.Shape([*tensor.shape[:axis], 1, *tensor.shape[axis + 1 :]])
    copies = op.Expand(last, join_sizes(op, [1] * axis + [missing] + [1] * (tensor.rank - axis - 1)))
    return op.Concat(tensor, copies, axis=axis)
