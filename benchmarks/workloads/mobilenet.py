"""MobileNetV2 1.0 (arXiv:1801.04381): inverted residuals around depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from .batches import dense
from .workload import Workload

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Table 2 of the paper: expansion, channels, repeats, stride."""


def convolution(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU6(),
    ]


class InvertedResidual(nn.Module):
    """Expand by 1×1, filter each channel by 3×3, project by 1×1; with x added where the shape stays."""

    def __init__(self, inner: int, outer: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inner * expansion
        expand = convolution(inner, hidden, 1) if expansion != 1 else []
        project = [nn.Conv2d(hidden, outer, 1, bias=False), nn.BatchNorm2d(outer)]
        self.body = nn.Sequential(*expand, *convolution(hidden, hidden, 3, stride, hidden), *project)
        self.adds = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet() -> nn.Module:
    layers, inner = convolution(3, 32, 3, 2), 32
    for expansion, outer, repeats, stride in _STAGES:
        for i in range(repeats):
            layers.append(InvertedResidual(inner, outer, stride if i == 0 else 1, expansion))
            inner = outer
    layers += convolution(inner, 1280, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))


MOBILENET = Workload("mobilenet", "MobileNetV2 1.0, 3×128², batch 8", mobilenet, dense(8, 3, 128, 128, classes=1000))
