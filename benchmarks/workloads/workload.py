"""What a workload is: a module, a batch, and the seeds that make both the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

Batch = tuple[dict[str, Tensor], Tensor]
"""Inputs by name, and int64 labels, which fit the module's logits [N, classes, …] for the cross entropy."""


@dataclass(frozen=True)
class Workload:
    """One model and one batch, trained with the mean cross entropy of its logits.

    Attributes:
        name: as the tables call it.
        summary: the model and the batch, in a few words.
        build: makes the module; called after the random seed was set.
        draw: makes the batch from a generator.
    """

    name: str
    summary: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Batch]

    def module(self) -> nn.Module:
        """The module as its forward-only export has it, with weights that are the same each time.

        Exporters multiply BatchNormalization into the convolution before it, so that is done here for every peer:
        all train the same parameters. Biases and norms get random values, so that no gradient is right by chance.
        """
        torch.manual_seed(0)
        module = self.build().eval()
        if any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):
            module = fuse(module)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.02)
        return module

    def batch(self) -> Batch:
        """The inputs and labels, the same each time."""
        return self.draw(torch.Generator().manual_seed(1))
