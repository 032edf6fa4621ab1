"""GroupQueryAttention, whose query heads share keys and values, with the buffers of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import onnx_ir as ir

from ..rules.sizes import Size, count_up_to, join_sizes, larger, size_of
from ..rules.slicing import zero_pad
from ..tape import Tensor
from .embedding import rotate
from .expansion import Fused, of_microsoft
from .scaled_products import attend, split_heads


def group_query_attention(n: Fused) -> Sequence[Tensor | None] | None:
    """softmax(scale · Q Kᵀ + bias) V of the keys up to the query's own position; the present K and V

    Each sequence of the batch has a length of its own: `seqlens_k` + 1 keys, of which the newest are the node's own and
    the ones before come from the start of the past buffer. What a row gives whose position is behind that length is
    not defined, and here is that of a longer sequence.
    """
    past = n.input(3)
    quantized = past is not None and not past.dtype.is_floating_point()
    if quantized or n.gives(3) or n.attr("sliding_window_cache", 0) or (n.input(1) is None) != (n.input(2) is None):
        return None
    return _GroupQueryAttention(n).outputs()


class _GroupQueryAttention:
    def __init__(self, n: Fused) -> None:
        self.n, self.op = n, n.op
        self.heads, self.key_heads = n.attr("num_heads"), n.attr("kv_num_heads")
        self.query, self.keys, self.values = self._separated()
        self.length: Size = size_of(self.query, 2)

    def outputs(self) -> Sequence[Tensor | None]:
        n = self.n
        query, keys = self._turned(self._normalized(self.query, 14)), self._turned(self._normalized(self.keys, 15))
        keys, values = self._with_past(keys, 3), self._with_past(self.values, 4)
        sink = n.input(11)
        if sink is None and n.attr("smooth_softmax", -1) == 1:
            sink = self.op.constant([0] * self.heads, query.dtype)
        y = attend(
            query,
            keys,
            values,
            scale=float(n.attr("scale", 0.0)),
            bias=self._bias(size_of(keys, 2)),
            softcap=float(n.attr("softcap", 0.0)),
            sink=sink,
        )
        return [y, keys, values]

    def _separated(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V as (batch, heads, sequence, head size)."""
        query, keys, values = self.n.required(0), self.n.input(1), self.n.input(2)
        if keys is not None and values is not None:
            keys, values = split_heads(keys, self.key_heads), split_heads(values, self.key_heads)
            return split_heads(query, self.heads), keys, values
        stacked = split_heads(query, self.heads + 2 * self.key_heads)
        counts = self.op.ints([self.heads, self.key_heads, self.key_heads])
        query, keys, values = self.op.emit_many("Split", stacked, counts, outputs=3, axis=1)
        return query, keys, values

    def _normalized(self, x: Tensor, index: int) -> Tensor:
        weight = self.n.input(index)
        if weight is None:
            return x
        return self.op.RMSNormalization(x, weight, axis=-1, epsilon=float(self.n.attr("qk_norm_epsilon", 1e-6)))

    def _turned(self, x: Tensor) -> Tensor:
        if not self.n.attr("do_rotary", 0):
            return x
        cosine, sine = self.n.required(7), self.n.required(8)
        half = cosine.shape[-1]
        rotated = 2 * half if isinstance(half, int) and 2 * half != x.shape[-1] else 0
        interleaved = self.n.attr("rotary_interleaved", 0)
        return rotate(x, cosine, sine, self._positions, heads=0, rotated=rotated, interleaved=interleaved)

    @cached_property
    def _past_lengths(self) -> Tensor | None:
        """How many keys of the past buffer each sequence has, (batch); None if there is no buffer."""
        if self.n.input(3) is None:
            return None
        earlier = self.n.required(5).reshape([-1]).cast(ir.DataType.INT64) + 1 - self.length
        return self.op.Max(earlier, self.op.constant(0, earlier.dtype))

    @cached_property
    def _positions(self) -> Tensor:
        """The position of each query in its sequence, (batch, sequence), for its angle."""
        steps, shape = count_up_to(self.op, self.length), join_sizes(self.op, [size_of(self.query, 0), self.length])
        given = self.n.input(9)
        if given is None:
            earlier = self._past_lengths
            return self.op.Expand(steps if earlier is None else earlier.unsqueeze([1]) + steps, shape)
        # Of a first prompt the kernels read the first element only.
        first = self.op.Slice(given, self.op.ints([0, 0]), self.op.ints([1, 1]))
        return self.op.Where(self._total.equals(self._as_tensor(self.length)), first + steps, given)

    @cached_property
    def _total(self) -> Tensor:
        """The length of the longest sequence, of one element."""
        return self.n.required(6).reshape([1]).cast(ir.DataType.INT64)

    def _as_tensor(self, size: Size) -> Tensor:
        return self.op.ints([size]) if isinstance(size, int) else size

    def _with_past(self, newest: Tensor, index: int) -> Tensor:
        """The buffer with the newest keys or values behind those that each sequence has there, and zeros behind."""
        op, buffer, earlier = self.op, self.n.input(index), self._past_lengths
        if buffer is None or earlier is None:
            return newest
        capacity = larger(size_of(buffer, 2), self._total)
        row, earlier = count_up_to(op, capacity), earlier.unsqueeze([1])
        source = op.Where(row < earlier, row, row - earlier + size_of(buffer, 2))
        there = row < earlier + self.length
        shape = join_sizes(op, [size_of(newest, 0), size_of(newest, 1), capacity, size_of(newest, 3)])
        indices = op.Expand(op.Where(there, source, op.constant(0, source.dtype)).unsqueeze([1, 3]), shape)
        rows = op.GatherElements(op.Concat(buffer, newest, axis=2), indices, axis=2)
        return op.Where(there.unsqueeze([1, 3]), rows, op.constant(0, rows.dtype))

    def _bias(self, keys: Size) -> Tensor:
        """What is added to the scores, broadcastable to (batch, heads, query, keys)."""
        op, n, earlier = self.op, self.n, self._past_lengths
        key, query = count_up_to(op, keys), count_up_to(op, self.length).unsqueeze([1])
        window = n.attr("local_window_size", -1)
        if earlier is not None:
            query = query + earlier.unsqueeze([1, 2, 3])
        if n.attr("causal", 1):
            allowed = op.LessOrEqual(key, query)
        else:
            lengths = n.required(5).reshape([-1, 1, 1, 1]).cast(ir.DataType.INT64)
            allowed = op.LessOrEqual(key, lengths)
        if window > 0:
            allowed = op.And(allowed, key > query - window)
        dtype = self.query.dtype
        bias, lowest = n.input(10), op.constant(float(dtype.min), dtype)
        if bias is None:
            return op.Where(allowed, op.constant(0, dtype), lowest)
        if not isinstance(keys, int) or bias.shape[-1] != keys:
            bias = zero_pad(bias, {3: (0, keys - size_of(bias, 3))})
        return op.Where(allowed, bias, lowest)


EXPANSIONS = of_microsoft({"GroupQueryAttention": group_query_attention})
