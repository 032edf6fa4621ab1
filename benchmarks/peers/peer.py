"""What a peer is: one way to train the workload, in a process and an environment of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np

from ..files import WorkloadFiles

LEARNING_RATE = 1e-6
"""Small, so that hundreds of steps on one batch leave the weights where they are."""


class Peer(ABC):
    """Trains one workload with one library.

    Attributes:
        files: the workload.
        threads: how many the library may use for one operator.
    """

    packages: tuple[str, ...] = ()
    """The distributions whose versions are reported."""

    def __init__(self, files: WorkloadFiles, threads: int) -> None:
        self.files = files
        self.threads = threads

    def compile(self) -> None:  # noqa: B027
        """Make of the workload what is loaded, where that is a step of its own."""

    @abstractmethod
    def load(self) -> None:
        """Place it in memory, up to the first step; and compile it before, where that is no step of its own."""

    @abstractmethod
    def operations(self) -> Mapping[str, Callable[[], object]]:
        """What can be timed, by name.

        `forward`; `step`: loss and gradients; `train`: step and AdamW; `adamw` and `adamw-fused`: the update alone;
        `gemm`: two square float32 matrices of `GEMM_SIZE` multiplied; `backward` and `bare`: `Session.backward`, and a
        run of the same graph with nothing around it.
        """

    def gradients(self) -> Mapping[str, np.ndarray]:
        """Those that a step finds with the weights as they were loaded, by parameter or initializer."""
        return {}


GEMM_SIZE = 2048
