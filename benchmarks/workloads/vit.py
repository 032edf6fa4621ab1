"""ViT-Ti/16 (arXiv:2010.11929, the tiny size of arXiv:2012.12877): 12 blocks, width 192, 3 heads, patches of 16²."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .batches import dense
from .transformer import Block
from .workload import Workload


class VisionTransformer(nn.Module):
    def __init__(self, width: int, blocks: int, heads: int, side: int, patch: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


VIT = Workload(
    "vit",
    "ViT-Ti/16, 3×224², batch 8",
    lambda: VisionTransformer(192, 12, 3, 224, 16, 1000),
    dense(8, 3, 224, 224, classes=1000),
)
