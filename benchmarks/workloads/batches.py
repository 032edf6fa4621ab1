"""Batches of random images, vectors and tokens with random labels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .workload import Batch


def dense(*shape: int, classes: int, labels: tuple[int, ...] | None = None) -> Callable[[torch.Generator], Batch]:
    """Normal float32 inputs `x` of *shape*, and labels of shape [N], or of *labels*."""

    def draw(generator: torch.Generator) -> Batch:
        x = torch.randn(shape, generator=generator)
        return {"x": x}, torch.randint(0, classes, labels or shape[:1], generator=generator)

    return draw


def tokens(batch: int, length: int, vocabulary: int, *, classes: int) -> Callable[[torch.Generator], Batch]:
    """Int64 inputs `ids` [batch, length], and labels [batch]."""

    def draw(generator: torch.Generator) -> Batch:
        ids = torch.randint(0, vocabulary, (batch, length), generator=generator)
        return {"ids": ids}, torch.randint(0, classes, (batch,), generator=generator)

    return draw


def next_tokens(batch: int, length: int, vocabulary: int) -> Callable[[torch.Generator], Batch]:
    """Int64 inputs `ids` [batch, length], and as labels [batch * length] the token that follows each."""

    def draw(generator: torch.Generator) -> Batch:
        text = torch.randint(0, vocabulary, (batch, length + 1), generator=generator)
        return {"ids": text[:, :-1].contiguous()}, text[:, 1:].reshape(-1)

    return draw
