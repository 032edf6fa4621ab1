"""PyTorch, module and loss in one compiled function."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..files import WorkloadFiles
from .eager import Eager
from .peer import Peer


class Compiled(Eager):
    def loss_function(self, module: nn.Module) -> Callable[..., Tensor]:
        # Otherwise a second run of the benchmark would find everything compiled.
        self._cache = tempfile.TemporaryDirectory()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._cache.name
        return torch.compile(super().loss_function(module))

    def operations(self) -> Mapping[str, Callable[[], object]]:
        operations = super().operations()
        return {name: operations[name] for name in ("step", "train")}


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return Compiled(files, threads)
