"""The rule of RotaryEmbedding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from ..broadcasting import unbroadcast
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .scattering import add_slices
from .sizes import join_sizes, size_of
from .slicing import TO_THE_END, crop

rules = Registry()


@rules.vjp("RotaryEmbedding", inputs=(0, 1, 2))
def rotary_embedding(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The cotangent is rotated back, by the same angles negated.

    The caches' cotangents are, of the pairs (a, b) that the operator rotates: da a + db b for the cosine and
    db a - da b for the sine, summed over heads and added up over the positions that read the same row.
    """
    op, x, cosine, sine, positions = n.op, n.required(0), n.required(1), n.required(2), n.input(3)
    attributes = {name: attribute.value for name, attribute in n.node.attributes.items()}

    def cotangent() -> Tensor:
        return op.RotaryEmbedding(dy, cosine, -sine, positions, **attributes)

    @cache
    def pairs() -> tuple[Tensor, ...]:
        return (*_pairs(n, x), *_pairs(n, dy))

    def cosine_cotangent() -> Tensor:
        a, b, da, db = pairs()
        return _to_cache(n, da * a + db * b, cosine)

    def sine_cotangent() -> Tensor:
        a, b, da, db = pairs()
        return _to_cache(n, db * a - da * b, sine)

    return cotangent, cosine_cotangent, sine_cotangent


def _pairs(n: Primal, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two members of each rotated pair, each of (batch, sequence, heads, pairs)."""
    op = n.op
    if x.rank == 4:
        x = x.transpose([0, 2, 1, 3])
    else:
        x = x.reshape(join_sizes(op, [size_of(x, 0), size_of(x, 1), n.attr("num_heads"), -1]))
    count = n.required(1).sizes([-1])
    rotated = crop(x, {3: (0, count * 2)})
    if n.attr("interleaved", 0):
        axes, step = op.ints([3]), op.ints([2])
        ends = op.ints([TO_THE_END])
        return op.Slice(rotated, op.ints([0]), ends, axes, step), op.Slice(rotated, op.ints([1]), ends, axes, step)
    return crop(rotated, {3: (0, count)}), crop(rotated, {3: (count, TO_THE_END)})


def _to_cache(n: Primal, products: Tensor, like: Tensor) -> Tensor:
    """Sum *products* over the heads, and to the rows of the cache that were read."""
    summed, positions = products.sum([2]), n.input(3)
    if positions is None:
        return unbroadcast(summed, like)
    rows = summed.flatten(2)
    return add_slices(n.op.zeros_like(like), positions.reshape([-1]), rows, 0)
