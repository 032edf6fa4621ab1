"""Perceptrons: one of three wide layers, and one so small that only overhead is measured."""

from __future__ import annotations

from torch import nn

from .batches import dense
from .workload import Workload

MLP = Workload(
    "mlp",
    "784-1024-1024-10, ReLU, batch 128",
    lambda: nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    dense(128, 784, classes=10),
)
MLP_SMALL = Workload(
    "mlp-small",
    "64-64-10, ReLU, batch 1",
    lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    dense(1, 64, classes=10),
)
