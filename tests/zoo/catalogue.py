"""The architectures of the zoo: how each is built and what it is fed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from . import convnets, transformer_models

Inputs = dict[str, Tensor]
SEQUENCE = 7
TARGET_SEQUENCE = 5


@dataclass(frozen=True)
class Architecture:
    """A module and the inputs that its `forward` takes, in order, with the batch as the first dimension of each."""

    name: str
    module: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]

    def build(self) -> nn.Module:
        """A new module in eval mode, with the same values each time; see `set_distinct_values`."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = self.module().eval()
            set_distinct_values(module)
        return module

    def example(self, batch: int = 2) -> Inputs:
        """Inputs for one call, the same each time for one batch size."""
        with torch.random.fork_rng():
            torch.manual_seed(batch)
            return self.inputs(batch)


def set_distinct_values(module: nn.Module) -> None:
    """Gives every parameter random values of which no two are equal, and BatchNormalization real statistics.

    A fresh module has many equal tensors (biases of 0, norm weights of 1), which exporters merge into one, and its
    statistics normalize nothing. With distinct values an initializer of an export tells which elements of which
    parameter it is made of. Matrices and kernels get variance 1 / fan-in; vectors stay near their initial value.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            count = parameter.numel()
            span = 1 + 0.1 * torch.rand(())
            values = torch.linspace(-span, span, count)[torch.randperm(count)].reshape(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(values * math.sqrt(3 * len(parameter) / count))
            else:
                parameter.add_(values, alpha=0.3)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.get_buffer("running_mean").normal_(std=0.2)
                layer.get_buffer("running_var").uniform_(0.5, 2.0)


def vector(batch: int) -> Inputs:
    return {"x": torch.randn(batch, 12)}


def image(batch: int, size: int) -> Inputs:
    return {"x": torch.randn(batch, 3, size, size)}


def pixel_values(batch: int, size: int) -> Inputs:
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def text(batch: int) -> Inputs:
    """Token ids and a mask that hides the last two tokens of every second sequence.

    Ids 0 and 1 are left out: PyTorch's `nn.Embedding(padding_idx=0)` drops the gradient of its padding row, which
    an exported Gather knows nothing of.
    """
    mask = torch.ones(batch, SEQUENCE, dtype=torch.int64)
    mask[1::2, -2:] = 0
    return {"input_ids": tokens(batch, SEQUENCE), "attention_mask": mask}


def text_with_segments(batch: int) -> Inputs:
    return text(batch) | {"token_type_ids": torch.randint(0, 2, (batch, SEQUENCE))}


def text_pair(batch: int) -> Inputs:
    return text(batch) | {"decoder_input_ids": tokens(batch, TARGET_SEQUENCE)}


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(2, transformer_models.VOCABULARY, (batch, length))


BasicResNet = partial(convnets.ResNet, convnets.BasicBlock, (8, 16))
BottleneckResNet = partial(convnets.ResNet, convnets.Bottleneck, (16, 32))

ARCHITECTURES = (
    Architecture("mlp", convnets.MLP, vector),
    Architecture("cnn", convnets.PlainCNN, partial(image, size=32)),
    Architecture("vgg", convnets.VGG, partial(image, size=32)),
    Architecture("alexnet", convnets.AlexNet, partial(image, size=64)),
    Architecture("resnet_basic", BasicResNet, partial(image, size=32)),
    Architecture("resnet_bottleneck", BottleneckResNet, partial(image, size=32)),
    Architecture("densenet", convnets.DenseNet, partial(image, size=32)),
    Architecture("inception", convnets.Inception, partial(image, size=64)),
    Architecture("squeezenet", convnets.SqueezeNet, partial(image, size=48)),
    Architecture("shufflenet", convnets.ShuffleNet, partial(image, size=48)),
    Architecture("bert", transformer_models.bert, text_with_segments),
    Architecture("distilbert", transformer_models.distilbert, text),
    Architecture("gpt2", transformer_models.gpt2, text),
    Architecture("llama", transformer_models.llama, text),
    Architecture("t5", transformer_models.t5, text_pair),
    Architecture("vit", transformer_models.vit, partial(pixel_values, size=32)),
    Architecture("convnext", transformer_models.convnext, partial(pixel_values, size=64)),
)
