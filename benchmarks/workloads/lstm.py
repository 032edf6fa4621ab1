"""A two-layer LSTM that classifies a sequence by its last state."""

from __future__ import annotations

from torch import Tensor, nn

from .batches import dense
from .workload import Workload


class Classifier(nn.Module):
    def __init__(self, features: int, hidden: int, layers: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


LSTM = Workload(
    "lstm",
    "2 layers, hidden 256, 64 steps, batch 32",
    lambda: Classifier(256, 256, 2, 10),
    dense(32, 64, 256, classes=10),
)
