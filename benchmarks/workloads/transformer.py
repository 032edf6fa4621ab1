"""The transformer block (arXiv:1706.03762) that ViT, BERT and GPT-2 are made of."""

from __future__ import annotations

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention [N, T, D] → [N, T, D], over earlier positions only if *causal*."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            layer(x).view(n, t, self.heads, d // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    """Attention and a GELU perceptron of four times the width, each added to its input.

    The normalization comes first (ViT, GPT-2), or after the sum (BERT) if *norm_last*.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False, norm_last: bool = False) -> None:
        super().__init__()
        self.norm_last = norm_last
        self.attention = Attention(width, heads, causal=causal)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_last:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self._perceptron(x))
        x = x + self.attention(self.norm1(x))
        return x + self._perceptron(self.norm2(x))

    def _perceptron(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))
