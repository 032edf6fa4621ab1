"""Embeddings of words and of positions."""

from __future__ import annotations

from collections.abc import Sequence

from ..rules.sizes import count_up_to, join_sizes, size_of
from ..rules.slicing import crop
from ..tape import Tensor
from .expansion import Fused, of_microsoft


def embed_layer_normalization(n: Fused) -> Sequence[Tensor | None]:
    """LayerNormalization(words + positions + segments), how many ones each mask has, and the sum"""
    op, ids, mask, position_ids = n.op, n.required(0), n.input(7), n.input(8)
    total = op.Gather(n.required(2), ids, axis=0)
    positions = n.required(3)
    if position_ids is None:
        total = total + crop(positions, {0: (0, size_of(ids, 1))})
    else:
        total = total + op.Gather(positions, position_ids, axis=0)
    segment_ids, segments = n.input(1), n.input(4)
    if segment_ids is not None and segments is not None:
        total = total + op.Gather(segments, segment_ids, axis=0)
    epsilon = float(n.attr("epsilon", 1e-12))
    y = op.LayerNormalization(total, n.required(5), n.required(6), axis=-1, epsilon=epsilon)
    lengths = None
    if n.gives(1) and mask is not None:
        lengths = mask.equals(1).cast(mask.dtype).sum([1])
    elif n.gives(1):
        lengths = op.Expand(op.constant(0, ids.dtype), ids.sizes([0]))
    return [y, lengths, total]


def rotary_embedding(n: Fused) -> Tensor | None:
    """x with its pairs turned by the angles of their positions (arXiv:2104.09864)"""
    x, positions, cosine, sine = (n.required(index) for index in range(4))
    heads, rotated, half, width = n.attr("num_heads", 0), n.attr("rotary_embedding_dim", 0), *_widths(x, cosine)
    if x.rank == 3 and not heads:
        if half is None or width is None:
            return None
        heads = width // (2 * half)
    if positions.rank != 2:
        steps = count_up_to(n.op, size_of(x, x.rank - 2)).unsqueeze([0])
        shape = join_sizes(n.op, [size_of(x, 0), size_of(x, x.rank - 2)])
        positions = n.op.Expand(positions.reshape([1, 1]) + steps, shape)
    return rotate(x, cosine, sine, positions, heads=heads, rotated=rotated, interleaved=n.attr("interleaved", 0))


def rotate(
    x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor, *, heads: int, rotated: int, interleaved: int
) -> Tensor:
    """RotaryEmbedding of (batch, heads, sequence, size), or (batch, sequence, heads · size)."""
    return x.op.RotaryEmbedding(
        x,
        cosine,
        sine,
        positions,
        interleaved=interleaved,
        rotary_embedding_dim=rotated,
        **({"num_heads": heads} if x.rank == 3 else {}),
    )


def gemma_rotary_embedding(n: Fused) -> Sequence[Tensor]:
    """q cos(a) + r sin(a), where r is q with its halves exchanged, one negated; and the same of k"""
    op, angles, dtype = n.op, n.required(0), n.required(1).dtype
    cosine, sine = (each.cast(dtype).unsqueeze([1]) for each in (op.Cos(angles), op.Sin(angles)))
    return [n.required(index) * cosine + n.required(index + 1) * sine for index in (1, 3)]


def _widths(x: Tensor, cosine: Tensor) -> tuple[int | None, int | None]:
    half, width = cosine.shape[-1], x.shape[-1]
    return (half if isinstance(half, int) else None), (width if isinstance(width, int) else None)


EXPANSIONS = of_microsoft(
    {
        "EmbedLayerNormalization": embed_layer_normalization,
        "GemmaRotaryEmbedding": gemma_rotary_embedding,
        "RotaryEmbedding": rotary_embedding,
    }
)
