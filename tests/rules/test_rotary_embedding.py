"""RotaryEmbedding against its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .checking import check_rule

BATCH, SEQUENCE, HEADS, SIZE = 2, 3, 2, 6


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
@pytest.mark.parametrize("positions", [None, [[0, 1, 2], [2, 2, 4]]])
def test_rotary_embedding(packed: bool, interleaved: int, rotated: int, positions: list | None) -> None:
    width = rotated or SIZE
    rows = (5,) if positions else (BATCH, SEQUENCE)

    def function(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        if positions:
            cos, sin = cos[torch.tensor(positions)], sin[torch.tensor(positions)]
        cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
        heads = x.reshape(BATCH, SEQUENCE, HEADS, SIZE) if packed else x.transpose(1, 2)
        turning, rest = heads[..., :width], heads[..., width:]
        if interleaved:
            a, b = turning[..., ::2], turning[..., 1::2]
            turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        else:
            a, b = turning.chunk(2, -1)
            turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
        y = torch.cat([turned, rest], -1)
        return y.flatten(2) if packed else y.transpose(1, 2)

    x = sample(BATCH, SEQUENCE, HEADS * SIZE) if packed else sample(BATCH, HEADS, SEQUENCE, SIZE)
    caches = [sample(*rows, width // 2, seed=1), sample(*rows, width // 2, seed=2)]
    check_rule(
        "RotaryEmbedding",
        [x, *caches, *([np.array(positions)] if positions else [])],
        attributes={
            "interleaved": interleaved,
            "rotary_embedding_dim": rotated,
            **({"num_heads": HEADS} if packed else {}),
        },
        torch_function=function,
    )
