"""The masks of ONNX Runtime's attention operators, as what is added to the scores."""

from __future__ import annotations

from ..rules.sizes import Size, count_up_to, join_sizes
from ..tape import Dim, Tape, Tensor


def is_known_padding(mask: Tensor, batch: Dim) -> bool:
    """Whether the form of *mask* is known, which for lengths (of one axis) depends on the size of the batch."""
    if mask.rank > 1:
        return mask.rank <= 4
    length = mask.shape[0]
    if isinstance(length, int) and isinstance(batch, int):
        return length in (batch, 2 * batch, 3 * batch + 2)
    return length is not None and length == batch


def padding_bias(mask: Tensor, masked: Tensor, *, batch: Size, queries: Size, keys: Size) -> Tensor | None:
    """0 where a key is valid and *masked* where not, broadcastable to (batch, heads, query, keys); None if all are.

    Args:
        mask: integers of one of these forms: (batch) the ends of the valid keys; (2 · batch) the ends, and after them
            the starts; (3 · batch + 2) the ends, and offsets that follow from them; (batch, keys), (batch, query,
            keys) or (batch, 1, largest, largest) with 1 at valid keys; (batch, 1) without any effect.
        masked: a scalar of the type of the scores.
        batch, queries, keys: the sizes of the scores.
    """
    op = mask.op
    if mask.rank == 2 and mask.shape[1] == 1 and keys != 1:
        return None
    if mask.rank == 1:
        allowed = _between_ends(mask, batch, keys)
    elif mask.rank == 4:
        rows = join_sizes(op, [keys - queries, 0])
        allowed = op.Slice(mask, rows, join_sizes(op, [keys, keys]), op.ints([2, 3])) > 0
    else:
        allowed = mask.unsqueeze([1, 2] if mask.rank == 2 else [1]) > 0
    return op.Where(allowed, op.constant(0, masked.dtype), masked)


def _between_ends(mask: Tensor, batch: Size, keys: Size) -> Tensor:
    op = mask.op
    position = count_up_to(op, keys).cast(mask.dtype)
    if not isinstance(batch, int) or mask.shape[0] == batch:
        return op.Less(position, mask.unsqueeze([1, 2, 3]))
    ends = op.Slice(mask, op.ints([0]), op.ints([batch])).unsqueeze([1, 2, 3])
    if mask.shape[0] != 2 * batch:
        return op.Less(position, ends)
    starts = op.Slice(mask, op.ints([batch]), op.ints([2 * batch])).unsqueeze([1, 2, 3])
    return op.And(op.Less(position, ends), op.GreaterOrEqual(position, starts))


def causal_bias(op: Tape, bias: Tensor, *, queries: Size, keys: Size) -> Tensor:
    """*bias* up to the key at the query's own position, the queries being the last, and the lowest number behind."""
    position = count_up_to(op, queries).unsqueeze([1]) + (keys - queries)
    visible = op.LessOrEqual(count_up_to(op, keys), position)
    return op.Where(visible, bias, op.constant(float(bias.dtype.min), bias.dtype))
