"""Attention in MatMul and Softmax."""

from __future__ import annotations

import math

from ..rules.sizes import join_sizes, size_of
from ..rules.slicing import crop
from ..tape import Tensor


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, sequence, heads · size) to (batch, heads, sequence, size)."""
    return by_heads(x, heads).transpose([0, 2, 1, 3])


def by_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, sequence, heads · size) to (batch, sequence, heads, size)."""
    width = x.shape[2]
    size = width // heads if isinstance(width, int) else -1
    return x.reshape(join_sizes(x.op, [size_of(x, 0), size_of(x, 1), heads, size]))


def merge_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    width = size_of(x, 1) * size_of(x, 3)
    return x.transpose([0, 2, 1, 3]).reshape(join_sizes(x.op, [size_of(x, 0), size_of(x, 2), width]))


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    bias: Tensor | None,
    softcap: float = 0.0,
    sink: Tensor | None = None,
) -> Tensor:
    """softmax(scale · Q Kᵀ + bias) V (Vaswani et al., arXiv:1706.03762), the heads merged.

    Args:
        query, keys, values: (batch, heads, sequence, head size); several heads of the query may share one of the keys
            and values, in order (grouped-query attention, arXiv:2305.13245).
        scale: 0 for 1/√(head size).
        bias: added to the scores, broadcast to (batch, heads, query, keys).
        softcap: the bound of the scores by tanh before that, 0 for none.
        sink: the score, by head, of a key with value 0 that every query has besides (arXiv:2309.17453).
    """
    scores = _unfold(_fold(_scaled(query, scale), keys) @ keys.swap_last_two(), query)
    if softcap:
        scores = query.op.Tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    probabilities = query.op.Softmax(scores, axis=-1) if sink is None else _softmax_beside(sink, scores)
    return merge_heads(_unfold(_fold(probabilities, keys) @ values, query))


def _scaled(query: Tensor, scale: float) -> Tensor:
    size = query.shape[-1]
    if scale:
        return query * scale
    return query * (1 / math.sqrt(size)) if isinstance(size, int) else query / query.op.Sqrt(query.count([-1]))


def _softmax_beside(sink: Tensor, scores: Tensor) -> Tensor:
    op, one = scores.op, [*(size_of(scores, axis) for axis in range(3)), 1]
    column = op.Expand(sink.reshape([1, -1, 1, 1]), join_sizes(op, one))
    return crop(op.Softmax(op.Concat(scores, column, axis=-1), axis=-1), {3: (0, -1)})


def _fold(x: Tensor, keys: Tensor) -> Tensor:
    """(batch, heads, sequence, size) to (batch, key heads, group · sequence, size), which needs no repeated keys."""
    if x.shape[1] == keys.shape[1]:
        return x
    return x.reshape(join_sizes(x.op, [size_of(x, 0), size_of(keys, 1), -1, size_of(x, 3)]))


def _unfold(x: Tensor, query: Tensor) -> Tensor:
    """The inverse of `_fold`."""
    if x.shape[1] == query.shape[1]:
        return x
    return x.reshape(join_sizes(x.op, [*(size_of(query, axis) for axis in range(3)), size_of(x, 3)]))
