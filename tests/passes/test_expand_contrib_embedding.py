"""ExpandContrib: embeddings of words and positions against ONNX Runtime's kernels and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .contrib_checking import check_expansion, sample

BATCH, SEQUENCE, WIDTH = 2, 3, 4
INT = np.int32


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("mask", [None, [[1, 0, 1], [1, 1, 0]]])
@pytest.mark.parametrize("positions", [None, [[2, 3, 2]], [[2, 3, 4], [1, 1, 0]]])
def test_embed_layer_normalization(segments: bool, mask: list | None, positions: list | None) -> None:
    ids, segment_ids = np.array([[1, 2, 1], [0, 4, 1]], INT), np.array([[0, 1, 1], [0, 0, 1]], INT)

    def function(ids, segment_ids, words, places, kinds, scale, shift, _=None, positions=None):  # type: ignore[no-untyped-def]
        total = words[ids.long()] + (places[:SEQUENCE] if positions is None else places[positions.long()])
        if kinds is not None:
            total = total + kinds[segment_ids.long()]
        return F.layer_norm(total, (WIDTH,), scale, shift, 1e-3), total

    inputs = [
        ids,
        segment_ids if segments else None,
        sample(5, WIDTH),
        sample(6, WIDTH),
        sample(2, WIDTH) if segments else None,
        sample(WIDTH),
        sample(WIDTH, seed=1),
        None if mask is None else np.array(mask, INT),
        None if positions is None else np.array(positions, INT),
    ]
    check_expansion(
        "EmbedLayerNormalization",
        inputs,
        function,
        attributes={"epsilon": 1e-3},
        outputs=3,
        static=(2, 3, 4, 5, 6),
        differentiated=[0, 2],
    )


def rotated(x, positions, cosine, sine, interleaved):  # type: ignore[no-untyped-def]
    """(batch, sequence, heads, size)"""
    cos, sin = cosine[positions].unsqueeze(2), sine[positions].unsqueeze(2)
    turning, rest = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    if interleaved:
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turning.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([turned, rest], -1)


@pytest.mark.parametrize("layout", ["packed", "packed with heads", "split"])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [[[0, 1, 2], [2, 5, 4]], [2]])
def test_rotary_embedding(layout: str, interleaved: int, positions: list) -> None:
    heads, size, half = 2, 8, 4 if layout == "packed" else 2
    x = sample(BATCH, SEQUENCE, heads, size)
    x = x.transpose(0, 2, 1, 3) if layout == "split" else x.reshape(BATCH, SEQUENCE, -1)

    def function(x, positions, cosine, sine):  # type: ignore[no-untyped-def]
        if positions.ndim == 1:
            positions = (positions + torch.arange(SEQUENCE)).expand(BATCH, SEQUENCE)
        by_heads = x.transpose(1, 2) if layout == "split" else x.unflatten(-1, (heads, size))
        y = rotated(by_heads, positions, cosine, sine, interleaved)
        return y.transpose(1, 2) if layout == "split" else y.flatten(2)

    check_expansion(
        "RotaryEmbedding",
        [x, np.array(positions), sample(6, half), sample(6, half, seed=1)],
        function,
        attributes={
            "interleaved": interleaved,
            **({} if layout == "packed" else {"num_heads": heads, "rotary_embedding_dim": 2 * half}),
        },
        static=(2, 3),
        kernel_dtypes=(np.float32, np.float16),
    )


def test_gemma_rotary_embedding() -> None:
    def function(angles, *states):  # type: ignore[no-untyped-def]
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        return states[0] * cos + states[1] * sin, states[2] * cos + states[3] * sin

    states = [sample(BATCH, 2, SEQUENCE, WIDTH, seed=seed) for seed in range(4)]
    inputs = [sample(BATCH, SEQUENCE, WIDTH), *states]
    check_expansion("GemmaRotaryEmbedding", inputs, function, outputs=2, kernel_dtypes=())
