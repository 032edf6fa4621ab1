"""Small networks that are smooth, each with one input: what PyTorch differentiates, and what it exports."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import onnx
import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A transformer block, in the operators that it is made of."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split[0], split[1], split[2]
        weights = torch.softmax(q @ k.transpose(-1, -2) * (self.width // self.heads) ** -0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, self.width))
        return x + self.mlp(self.norm2(x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@dataclass(frozen=True)
class Case:
    """A network and the shape of its input; the export has a symbolic batch where *dynamic*."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dynamic: bool = True

    @cached_property
    def module(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build().eval()

    @cached_property
    def exported(self) -> onnx.ModelProto:
        batch = torch.export.Dim("batch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                self.module,
                (torch.zeros(self.shape),),
                dynamo=True,
                input_names=["x"],
                output_names=["y"],
                dynamic_shapes=({0: batch},) if self.dynamic else None,
                verbose=False,
            )
        assert program is not None
        return program.model_proto

    def in_float64(self) -> Callable[[Tensor], Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.build().eval()
        return module.double()

    def sample(self, seed: int = 1) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))


CASES = [
    Case("mlp", mlp, (2, 5)),
    Case("cnn", cnn, (2, 2, 8, 8)),
    Case("block", Block, (2, 4, 8)),
    Case("lstm", Recurrent, (2, 5, 3), dynamic=False),
]
