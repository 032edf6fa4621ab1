"""GPT-2 (Radford et al., 2019) of four blocks: causal attention, and the embedding again as the output layer."""

from __future__ import annotations

from torch import Tensor, nn

from .batches import next_tokens
from .transformer import Block
from .workload import Workload

VOCABULARY = 50_257


class LanguageModel(nn.Module):
    """Token ids [N, T] to the logits [N * T, vocabulary] of the token after each."""

    def __init__(self, width: int, blocks: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(length, width)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(width, heads, causal=True) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return nn.functional.linear(self.norm(x), self.tokens.weight).flatten(0, 1)


GPT2 = Workload(
    "gpt2",
    "4 blocks, width 512, 8 heads, 256 tokens, vocabulary 50,257, causal LM loss, batch 4",
    lambda: LanguageModel(512, 4, 8, 256),
    next_tokens(4, 256, VOCABULARY),
)
