"""BERT (arXiv:1810.04805) of four blocks, classifying by its first token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .batches import tokens
from .transformer import Block
from .workload import Workload

VOCABULARY = 30_522


class Bert(nn.Module):
    def __init__(self, width: int, blocks: int, heads: int, length: int, classes: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, norm_last=True) for _ in range(blocks))
        self.pooler = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.head(torch.tanh(self.pooler(x[:, 0])))


BERT = Workload(
    "bert",
    "4 blocks, width 512, 8 heads, 128 tokens, vocabulary 30,522, batch 8",
    lambda: Bert(512, 4, 8, 128, 4),
    tokens(8, 128, VOCABULARY, classes=4),
)
