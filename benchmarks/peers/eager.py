"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..files import WorkloadFiles
from ..workloads import WORKLOADS
from .peer import GEMM_SIZE, LEARNING_RATE, Peer


class Eager(Peer):
    packages = ("torch",)

    def load(self) -> None:
        torch.set_num_threads(self.threads)
        workload = WORKLOADS[self.files.name]
        self._module = workload.module()
        inputs, self._labels = workload.batch()
        self._inputs = tuple(inputs.values())
        self._loss = self.loss_function(self._module)

    def loss_function(self, module: nn.Module) -> Callable[..., Tensor]:
        return lambda labels, *inputs: nn.functional.cross_entropy(module(*inputs), labels)

    def operations(self) -> Mapping[str, Callable[[], object]]:
        default, fused = self._optimizer(fused=None), self._optimizer(fused=True)
        a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
        return {
            "forward": self._forward,
            "step": self._step,
            "train": lambda: self._train(default),
            "adamw": default.step,
            "adamw-fused": fused.step,
            "gemm": lambda: a @ b,
        }

    def gradients(self) -> Mapping[str, np.ndarray]:
        self._step()
        return {name: p.grad.numpy() for name, p in self._module.named_parameters() if p.grad is not None}

    def _optimizer(self, *, fused: bool | None) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self._module.parameters(), lr=LEARNING_RATE, fused=fused)

    def _forward(self) -> Tensor:
        with torch.inference_mode():
            return self._module(*self._inputs)

    def _step(self) -> None:
        self._module.zero_grad(set_to_none=True)
        self._loss(self._labels, *self._inputs).backward()

    def _train(self, optimizer: torch.optim.Optimizer) -> None:
        self._step()
        optimizer.step()


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return Eager(files, threads)
