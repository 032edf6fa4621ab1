"""Small convolutional networks that keep the structure of the published ones: every kind of block, few channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_bn_relu(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution without bias, BatchNormalization, ReLU: the unit most of these networks are made of."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class MLP(nn.Sequential):
    """Three dense layers; two activations, so that more than ReLU is met."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5))


class PlainCNN(nn.Sequential):
    """One of each of the classic layers: strided convolution, both poolings, the global one, Dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 5, stride=2, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.1),
            nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(16, 7),
        )


class VGG(nn.Sequential):
    """Stacked 3x3 convolutions with bias, MaxPool between, a dense head with Dropout (Simonyan and Zisserman 2014)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, depth in ((8, 2), (16, 2), (24, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        head = [nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10)]
        super().__init__(*layers, *head)


class AlexNet(nn.Sequential):
    """Large strided first kernel, local response normalization, overlapping MaxPool, grouped convolution (2012)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2.0),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(12, 16, 5, padding=2, groups=2),
            nn.ReLU(),
            nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2.0),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(16 * 9, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes (He et al. 2015, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(inputs, outputs, 3, stride, 1),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand, and a shortcut (He et al. 2015, figure 5 right)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.body = nn.Sequential(
            conv_bn_relu(inputs, width),
            conv_bn_relu(width, width, 3, stride, 1),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut of a residual block: the identity where shapes allow it, a strided 1x1 convolution elsewhere."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Sequential):
    """Strided 7x7 stem and MaxPool, residual blocks in two stages, global average, one dense layer."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], widths: Sequence[int]) -> None:
        stages = [
            layer
            for i, width in enumerate(widths)
            for layer in (
                block(8 if i == 0 else widths[i - 1], width, 1 if i == 0 else 2),
                block(width, width, 1),
            )
        ]
        super().__init__(
            conv_bn_relu(3, 8, 7, 2, 3),
            nn.MaxPool2d(3, 2, 1),
            *stages,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(widths[-1], 10),
        )


class DenseLayer(nn.Module):
    """BatchNormalization-ReLU-convolution twice; what it makes is concatenated to what it got (Huang et al. 2016)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 2 * growth, 1, bias=False),
            nn.BatchNorm2d(2 * growth),
            nn.ReLU(),
            nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


class DenseNet(nn.Sequential):
    """Two dense blocks with a transition (1x1 convolution and AveragePool) between."""

    def __init__(self, growth: int = 6, depth: int = 3) -> None:
        width = 12
        layers: list[nn.Module] = [conv_bn_relu(3, width, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
        for block in range(2):
            if block:
                layers += [
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
                width //= 2
            for _ in range(depth):
                layers.append(DenseLayer(width, growth))
                width += growth
        head = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
        super().__init__(*layers, *head)


class Branches(nn.Module):
    """Runs each branch on the same input and concatenates the channels: the shape of Inception and Fire modules."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Inception(nn.Sequential):
    """The four kinds of Inception v3 modules: pooled, reducing, factorised, widened (Szegedy et al. 2015)."""

    def __init__(self) -> None:
        mixed = Branches(
            conv_bn_relu(8, 6),
            nn.Sequential(conv_bn_relu(8, 4), conv_bn_relu(4, 6, 5, padding=2)),
            nn.Sequential(conv_bn_relu(8, 4), conv_bn_relu(4, 6, 3, padding=1), conv_bn_relu(6, 6, 3, padding=1)),
            nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), conv_bn_relu(8, 6)),
        )
        reduction = Branches(
            conv_bn_relu(24, 8, 3, stride=2),
            nn.Sequential(conv_bn_relu(24, 6), conv_bn_relu(6, 8, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        factorised = Branches(
            conv_bn_relu(40, 8),
            nn.Sequential(
                conv_bn_relu(40, 6),
                conv_bn_relu(6, 6, (1, 7), padding=(0, 3)),
                conv_bn_relu(6, 8, (7, 1), padding=(3, 0)),
            ),
            nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn_relu(40, 8)),
        )
        widened = nn.Sequential(
            conv_bn_relu(24, 12),
            Branches(
                conv_bn_relu(12, 8, (1, 3), padding=(0, 1)),
                conv_bn_relu(12, 8, (3, 1), padding=(1, 0)),
            ),
        )
        super().__init__(
            conv_bn_relu(3, 8, 3, stride=2),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            mixed,
            reduction,
            factorised,
            widened,
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(16, 10),
        )


class SqueezeNet(nn.Sequential):
    """Fire modules (squeeze 1x1, expand 1x1 and 3x3), a convolution as classifier (Iandola et al. 2016)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            self.fire(12, 4, 8),
            self.fire(16, 4, 8),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            self.fire(16, 6, 12),
            nn.Dropout(0.5),
            nn.Conv2d(24, 10, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Softmax(dim=1),
        )

    @staticmethod
    def fire(inputs: int, squeezed: int, expanded: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, squeezed, 1),
            nn.ReLU(),
            Branches(
                nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU()),
            ),
        )


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1; added to, or concatenated with, the shortcut.

    Zhang et al. 2017, figure 2 (b) for stride 1 and (c) for stride 2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.stride = stride
        made = outputs - inputs if stride == 2 else outputs
        width = outputs // 2
        self.reduce = conv_bn_relu(inputs, width, groups=groups)
        self.expand = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, made, 1, groups=groups, bias=False),
            nn.BatchNorm2d(made),
        )
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        n, c, h, w = y.shape
        y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        y = self.expand(y)
        return torch.relu(torch.cat([self.pool(x), y], dim=1) if self.stride == 2 else x + y)


class ShuffleNet(nn.Sequential):
    """Two stages of shuffle units, global average, one dense layer."""

    def __init__(self, groups: int = 3) -> None:
        super().__init__(
            conv_bn_relu(3, 12, 3, 2, 1),
            nn.MaxPool2d(3, 2, 1),
            ShuffleUnit(12, 24, 2, groups),
            ShuffleUnit(24, 24, 1, groups),
            ShuffleUnit(24, 48, 2, groups),
            ShuffleUnit(48, 48, 1, groups),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )
