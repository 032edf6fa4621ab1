"""Attention and MultiHeadAttention, whose keys and values have as many heads as the query."""

from __future__ import annotations

from collections.abc import Sequence

from ..rules.sizes import join_sizes, size_of
from ..tape import Tensor
from .attention_masks import causal_bias, is_known_padding, padding_bias
from .expansion import Fused, of_microsoft
from .scaled_products import attend, by_heads, split_heads


def attention(n: Fused) -> Sequence[Tensor | None] | None:
    """softmax(scale · Q Kᵀ + masks + bias) V, where Q, K and V are parts of a projection of x; the present K and V"""
    x, mask, past = n.required(0), n.input(3), n.input(4)
    if n.attr("past_present_share_buffer", 0) or n.attr("do_rotary", 0):
        return None
    if mask is not None and not is_known_padding(mask, x.shape[0]):
        return None
    op, heads, bias = n.op, n.attr("num_heads"), n.input(2)
    projected = x @ n.required(1)
    projected = projected if bias is None else projected + bias
    widths = n.attr("qkv_hidden_sizes")
    if widths:
        parts = op.emit_many("Split", projected, op.ints(widths), outputs=3, axis=-1)
    else:
        parts = op.emit_many("Split", projected, outputs=3, axis=-1, num_outputs=3)
    query, keys, values = (split_heads(part, heads) for part in parts)
    if past is not None:
        old_keys, old_values = (op.Gather(past, op.constant(i, op.ints([0]).dtype), axis=0) for i in range(2))
        keys, values = op.Concat(old_keys, keys, axis=2), op.Concat(old_values, values, axis=2)
    y = _attended(n, query, keys, values, mask, n.input(5))
    present = op.Concat(keys.unsqueeze([0]), values.unsqueeze([0]), axis=0) if n.gives(1) else None
    return [y, present]


def multi_head_attention(n: Fused) -> Sequence[Tensor | None] | None:
    """softmax(scale · Q Kᵀ + masks + bias) V, and the present K and V"""
    query, mask, past_keys, past_values = n.required(0), n.input(4), n.input(6), n.input(7)
    if n.gives(3) or n.input(8) is not None or n.input(9) is not None:
        return None  # the scores themselves, or the buffers of a decoder
    if mask is not None and not is_known_padding(mask, query.shape[0]):
        return None
    separated = _separated(n)
    if separated is None:
        return None
    query, keys, values = separated
    if past_keys is not None and past_values is not None:
        keys, values = n.op.Concat(past_keys, keys, axis=2), n.op.Concat(past_values, values, axis=2)
    return [_attended(n, query, keys, values, mask, n.input(5)), keys, values]


def _attended(
    n: Fused, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    op, sizes = n.op, {"queries": size_of(query, 2), "keys": size_of(keys, 2)}
    total: Tensor | None = None
    if mask is not None:
        masked = op.constant(float(n.attr("mask_filter_value", -10000.0)), query.dtype)
        total = padding_bias(mask, masked, batch=size_of(query, 0), **sizes)
    if n.attr("unidirectional", 0) and query.shape[2] != 1:
        total = causal_bias(op, op.constant(0, query.dtype) if total is None else total, **sizes)
    if bias is not None:
        total = bias if total is None else bias + total
    return attend(query, keys, values, scale=float(n.attr("scale", 0.0)), bias=total)


def _separated(n: Fused) -> tuple[Tensor, Tensor, Tensor] | None:
    """Q, K and V as (batch, heads, sequence, head size), of any of the forms in which they come; None if unknown."""
    query, keys, values, bias = n.required(0), n.input(1), n.input(2), n.input(3)
    ranks = tuple(0 if each is None else each.rank for each in (query, keys, values))
    if n.attr("unidirectional", 0) and keys is not None and not _have_same_length(query, keys):
        return None
    if ranks == (3, 4, 4) and keys is not None and values is not None and bias is None:
        return split_heads(query, n.attr("num_heads")), keys, values
    if ranks == (5, 0, 0):
        parts = list(_unstacked(query, 3))
    elif ranks == (3, 5, 0) and keys is not None:
        parts = [by_heads(query, n.attr("num_heads")), *_unstacked(keys, 2)]
    elif ranks == (3, 3, 3) and keys is not None and values is not None:
        parts = [by_heads(each, n.attr("num_heads")) for each in (query, keys, values)]
    else:
        return None
    if bias is not None:
        widths = join_sizes(n.op, [size_of(part, 2) * size_of(part, 3) for part in parts])
        shares = n.op.emit_many("Split", bias, widths, outputs=3, axis=0)
        parts = [part + share.reshape([n.attr("num_heads"), -1]) for part, share in zip(parts, shares, strict=True)]
    query, keys, values = (part.transpose([0, 2, 1, 3]) for part in parts)
    return query, keys, values


def _unstacked(x: Tensor, count: int) -> list[Tensor]:
    """(batch, sequence, heads, count, size) to so many of (batch, sequence, heads, size)."""
    parts = x.op.emit_many("Split", x, outputs=count, axis=3, num_outputs=count)
    return [part.squeeze([3]) for part in parts]


def _have_same_length(query: Tensor, keys: Tensor) -> bool:
    length = keys.shape[2 if keys.rank == 4 else 1]
    return length is not None and length == query.shape[1]


EXPANSIONS = of_microsoft({"Attention": attention, "MultiHeadAttention": multi_head_attention})
