"""The files of a workload, which all peers read: the export, the batch, the weights.

Read by peers in environments with little more than NumPy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class WorkloadFiles:
    """Where they lie: one folder a workload.

    Attributes:
        folder: named like the workload.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The forward-only ONNX export, with output `logits`."""
        return self.folder / "model.onnx"

    @property
    def name(self) -> str:
        return self.folder.name

    def inputs(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "batch.npz") as batch:
            return {name: batch[name] for name in batch.files if name != "labels"}

    def labels(self) -> np.ndarray:
        with np.load(self.folder / "batch.npz") as batch:
            return batch["labels"]

    def weights(self) -> dict[str, np.ndarray]:
        """The parameters by PyTorch's names."""
        with np.load(self.folder / "weights.npz") as weights:
            return {name: weights[name] for name in weights.files}

    def origins(self) -> dict[str, tuple[str, list[str]]]:
        """For each initializer of the export that is a parameter: how it was made, and of which parameters."""
        return {name: (form, sources) for name, (form, sources) in json.loads(self._origins.read_text()).items()}

    def initializers(self) -> list[str]:
        """The initializers of the export that are trained; the others are constants."""
        return list(self.origins())

    @property
    def _origins(self) -> Path:
        return self.folder / "origins.json"

    def write_origins(self, origins: dict[str, tuple[str, list[str]]]) -> None:
        self._origins.write_text(json.dumps(origins, indent=1))
