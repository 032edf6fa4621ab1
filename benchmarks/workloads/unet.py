"""A U-Net (arXiv:1505.04597) of four levels, as in diffusion models: GroupNorm, SiLU, ConvTranspose, Resize."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .batches import dense
from .workload import Workload

_CHANNELS = (32, 64, 128, 256)


def stage(inner: int, outer: int) -> nn.Sequential:
    """Two times convolution 3×3, GroupNorm, SiLU."""
    layers: list[nn.Module] = []
    for channels in (inner, outer):
        layers += [nn.Conv2d(channels, outer, 3, padding=1), nn.GroupNorm(8, outer), nn.SiLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Three levels up are learned (ConvTranspose); the logits come from half the size and are resized."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        down = list(zip((32, *_CHANNELS), _CHANNELS, strict=False))
        up = list(zip(_CHANNELS[:0:-1], _CHANNELS[-2::-1], strict=True))
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.down = nn.ModuleList(stage(inner, outer) for inner, outer in down)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(inner, outer, 2, stride=2) for inner, outer in up)
        self.up = nn.ModuleList(stage(2 * outer, outer) for _, outer in up)
        self.head = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, layers in enumerate(self.down):
            x = layers(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for grow, layers, skip in zip(self.grow, self.up, skips[-2::-1], strict=True):
            x = layers(torch.cat([grow(x), skip], 1))
        return nn.functional.interpolate(self.head(x), scale_factor=2.0, mode="bilinear")


UNET = Workload(
    "unet",
    "4 levels, ConvTranspose, GroupNorm, SiLU, Resize, 3×128², batch 4",
    lambda: UNet(8),
    dense(4, 3, 128, 128, classes=8, labels=(4, 128, 128)),
)
