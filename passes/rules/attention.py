"""The rule of Attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import onnx_ir as ir

from ..broadcasting import unbroadcast
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .sizes import Size, join_sizes, size_of
from .slicing import TO_THE_END, crop

rules = Registry()

RAW, CAPPED, BIASED, PROBABILITIES = range(4)
"""What the output qk_matmul_output is, by `qk_matmul_output_mode`."""


@rules.vjp("Attention", inputs=(0, 1, 2, 3, 4, 5))
def attention(
    n: Primal,
    dy: Tensor | None,
    dkeys: Tensor | None = None,
    dvalues: Tensor | None = None,
    dqk: Tensor | None = None,
) -> Sequence[Cotangent]:
    """dS = P (dP - rowsum(dY Y)), dQ = dS K, dK = dSᵀ Q, dV = Pᵀ dY, of Y = P V and P = softmax(Q Kᵀ).

    The probabilities P are recomputed from the inputs, and the row sums taken over Y, as in FlashAttention
    (Dao et al., 2022, appendix B): nothing of the size of P is kept from the forward pass. A row with every key
    masked has zero output and so zero gradient.
    """
    backward = _Backward(n, dy, dkeys, dvalues, dqk)
    return (
        lambda: backward.query,
        lambda: backward.newest(backward.keys, 1),
        lambda: backward.newest(backward.values, 2),
        lambda: backward.mask,
        lambda: backward.past(backward.keys, 4),
        lambda: backward.past(backward.values, 5),
    )


class _Forward:
    """The forward computation, as far as the backward one reads it.

    Heads are an axis of their own: (batch, heads, sequence, head size). Where several query heads share a key
    head (grouped-query attention), they are folded into the query's sequence for the products, which then
    need no repeated keys and sum over the group by themselves.
    """

    def __init__(self, n: Primal) -> None:
        self.n, self.op = n, n.op
        self.packed = n.required(0).rank == 3
        self.heads: Size = n.attr("q_num_heads") if self.packed else size_of(n.required(0), 1)
        self.key_heads: Size = n.attr("kv_num_heads") if self.packed else size_of(n.required(1), 1)
        self.group = self._group()

    def _group(self) -> Size:
        """How many query heads share a key head."""
        heads, key_heads = self.heads, self.key_heads
        if isinstance(heads, int) and isinstance(key_heads, int):
            return heads // key_heads
        name = self.n.required(0).shape[1]
        if not self.packed and name is not None and name == self.n.required(1).shape[1]:
            return 1
        return join_sizes(self.op, [heads]) / join_sizes(self.op, [key_heads])

    def split_heads(self, x: Tensor, heads: Size) -> Tensor:
        """(batch, sequence, heads · size) to (batch, heads, sequence, size), if that is how the inputs come."""
        if not self.packed:
            return x
        sizes = [size_of(x, 0), size_of(x, 1), heads, -1]
        return x.reshape(join_sizes(self.op, sizes)).transpose([0, 2, 1, 3])

    def pack_heads(self, x: Tensor, like: Tensor) -> Tensor:
        """The inverse of `split_heads`."""
        return x.transpose([0, 2, 1, 3]).reshape_like(like) if self.packed else x

    def fold(self, x: Tensor) -> Tensor:
        """(batch, heads, sequence, size) to (batch, key heads, group · sequence, size)."""
        if self.group == 1:
            return x
        batch, _, sequence, size = (size_of(x, axis) for axis in range(4))
        return x.reshape(join_sizes(self.op, [batch, self.key_heads, sequence * self.group, size]))

    def unfold(self, x: Tensor) -> Tensor:
        """The inverse of `fold`."""
        if self.group == 1:
            return x
        batch, sequence, size = size_of(x, 0), size_of(self.query, 2), size_of(x, 3)
        return x.reshape(join_sizes(self.op, [batch, self.heads, sequence, size]))

    @cached_property
    def query(self) -> Tensor:
        return self.split_heads(self.n.required(0), self.heads)

    @cached_property
    def keys(self) -> Tensor:
        return self._with_past(1, 4)

    @cached_property
    def values(self) -> Tensor:
        return self._with_past(2, 5)

    def _with_past(self, index: int, past_index: int) -> Tensor:
        newest, past = self.split_heads(self.n.required(index), self.key_heads), self.n.input(past_index)
        return newest if past is None else self.op.Concat(past, newest, axis=2)

    def scaled(self, x: Tensor) -> Tensor:
        """*x* times the scale of the scores, 1/√(head size) if the node gives none."""
        scale, size = self.n.attr("scale"), self.query.shape[-1]
        if scale is not None:
            return x * float(scale)
        if isinstance(size, int):
            return x * (1 / math.sqrt(size))
        return x / self.op.Sqrt(self.query.count([-1]))

    @property
    def softcap(self) -> float:
        return float(self.n.attr("softcap", 0.0))

    @cached_property
    def scores(self) -> Tensor:
        """Scale · Q Kᵀ, soft-capped."""
        scores = self.unfold(self.fold(self.scaled(self.query)) @ self.keys.swap_last_two())
        return self.op.Tanh(scores / self.softcap) * self.softcap if self.softcap else scores

    @cached_property
    def bias(self) -> Tensor | None:
        """The mask that is added to the scores, of full length; None if there is none."""
        mask = self._mask
        return mask if mask is not None and mask.dtype != ir.DataType.BOOL else None

    @cached_property
    def _mask(self) -> Tensor | None:
        mask = self.n.input(3)
        if mask is None or self.spans_all_keys(mask):
            return mask
        missing = size_of(self.keys, 2) - size_of(mask, mask.rank - 1)
        outside: Tensor = self.op.constant(False if mask.dtype == ir.DataType.BOOL else -math.inf, mask.dtype)
        return self.op.Pad(mask, join_sizes(self.op, [0, missing]), outside, self.op.ints([-1]))

    def spans_all_keys(self, mask: Tensor) -> bool:
        """Whether *mask* is known to be as long as the keys; a shorter one excludes the rest of them."""
        return mask.shape[-1] is not None and mask.shape[-1] == self.keys.shape[2]

    @cached_property
    def allowed(self) -> Tensor | None:
        """Where keys may be attended to, broadcastable to the scores; None where all may."""
        conditions = list(self._position_conditions())
        if self.bias is not None:
            conditions.append(self.bias >= _lowest(self.bias.dtype))
        elif self._mask is not None:
            conditions.append(self._mask)
        if not conditions:
            return None
        allowed = conditions[0]
        for condition in conditions[1:]:
            allowed = self.op.And(allowed, condition)
        return allowed

    def _position_conditions(self) -> list[Tensor]:
        op, n = self.op, self.n
        causal, left, right = (
            n.attr("is_causal", 0),
            n.attr("left_window_size", -1),
            n.attr("right_window_size", -1),
        )
        lengths = n.input(6)
        key = self._positions(self.keys)
        conditions = []
        if causal or left >= 0 or right >= 0:
            position = self._positions(self.query).unsqueeze([1]) + self._offset(lengths)
            if causal:
                conditions.append(key <= position)
            if left >= 0:
                conditions.append(key >= position - left)
            if right >= 0:
                conditions.append(key <= position + right)
        if lengths is not None:
            conditions.append(op.Less(key, lengths.unsqueeze([1, 2, 3])))
        return conditions

    def _positions(self, x: Tensor) -> Tensor:
        """0, 1, 2, … along the sequence of *x*."""
        op = self.op
        count = x.count([2], dtype=ir.DataType.INT64)
        return op.Range(op.constant(0, count.dtype), count, op.constant(1, count.dtype))

    def _offset(self, lengths: Tensor | None) -> Size:
        """How many valid keys precede the first query."""
        past = self.n.input(4)
        if past is not None:
            return size_of(past, 2)
        return 0 if lengths is None else lengths.unsqueeze([1, 2, 3]) - size_of(self.query, 2)

    @cached_property
    def probabilities(self) -> Tensor:
        """P, zero where no key may be attended to, also in a row of which that is true of every key."""
        op, scores = self.op, self.scores
        if self.bias is not None:
            scores = scores + self.bias
        if self.allowed is not None:
            scores = op.Where(self.allowed, scores, op.constant(_lowest(scores.dtype), scores.dtype))
        precision = self.n.attr("softmax_precision")
        dtype = scores.dtype if precision is None else ir.DataType(precision)
        probabilities = op.Softmax(scores.cast(dtype), axis=-1).cast(scores.dtype)
        if self.allowed is None:
            return probabilities
        return op.Where(self.allowed, probabilities, op.constant(0, scores.dtype))


class _Backward:
    """The cotangents, each computed once."""

    def __init__(
        self,
        n: Primal,
        dy: Tensor | None,
        dkeys: Tensor | None,
        dvalues: Tensor | None,
        dqk: Tensor | None,
    ) -> None:
        self.n, self.forward = n, _Forward(n)
        self.dy = None if dy is None else self.forward.split_heads(dy, self.forward.heads)
        self.dkeys, self.dvalues = dkeys, dvalues
        mode = n.attr("qk_matmul_output_mode", RAW)
        self.dqk = [dqk if mode == output else None for output in range(4)]

    @cached_property
    def biased_scores(self) -> Tensor | None:
        """The cotangent of what the softmax is taken of."""
        forward, terms = self.forward, []
        if self.dy is not None:
            values = forward.values.swap_last_two()
            probabilities = forward.unfold(forward.fold(self.dy) @ values)
            y = forward.split_heads(self.n.outputs[0], forward.heads)
            mean = (self.dy * y).sum([-1], keepdims=True)
            terms.append(forward.probabilities * (probabilities - mean))
        if (dqk := self.dqk[PROBABILITIES]) is not None:
            mean = (dqk * forward.probabilities).sum([-1], keepdims=True)
            terms.append(forward.probabilities * (dqk - mean))
        return _sum([*terms, self.dqk[BIASED]])

    @cached_property
    def scores(self) -> Tensor | None:
        """The cotangent of scale · Q Kᵀ, with the query heads of a group folded."""
        forward = self.forward
        scores = _sum([self.biased_scores, self.dqk[CAPPED]])
        if scores is not None and forward.softcap:
            share = forward.scores / forward.softcap
            scores = scores * (1 - share * share)
        scores = _sum([scores, self.dqk[RAW]])
        return None if scores is None else forward.fold(forward.scaled(scores))

    @property
    def query(self) -> Tensor | None:
        if self.scores is None:
            return None
        forward = self.forward
        return forward.pack_heads(forward.unfold(self.scores @ forward.keys), self.n.required(0))

    @cached_property
    def keys(self) -> Tensor | None:
        products = None
        if self.scores is not None:
            products = self.scores.swap_last_two() @ self.forward.fold(self.forward.query)
        return _sum([products, self.dkeys])

    @cached_property
    def values(self) -> Tensor | None:
        products = None
        if self.dy is not None:
            forward = self.forward
            products = forward.fold(forward.probabilities).swap_last_two() @ forward.fold(self.dy)
        return _sum([products, self.dvalues])

    @property
    def mask(self) -> Tensor | None:
        mask, cotangent = self.n.required(3), self.biased_scores
        if cotangent is None:
            return None
        if not self.forward.spans_all_keys(mask):
            cotangent = crop(cotangent, {3: (0, size_of(mask, mask.rank - 1))})
        return unbroadcast(cotangent, mask)

    def past(self, cotangent: Tensor | None, index: int) -> Tensor | None:
        """The part of *cotangent* (of all keys or values) that belongs to the past ones, the input at *index*."""
        if cotangent is None:
            return None
        return crop(cotangent, {2: (0, size_of(self.n.required(index), 2))})

    def newest(self, cotangent: Tensor | None, index: int) -> Tensor | None:
        """The part of *cotangent* that belongs to the newest keys or values, the input at *index*."""
        if cotangent is None:
            return None
        past = self.n.input(index + 3)
        if past is not None:
            cotangent = crop(cotangent, {2: (size_of(past, 2), TO_THE_END)})
        return self.forward.pack_heads(cotangent, self.n.required(index))


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def _lowest(dtype: ir.DataType) -> float:
    """A finite score that no softmax tells from minus infinity."""
    return float(dtype.min)
