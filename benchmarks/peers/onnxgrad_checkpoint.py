"""onnxgrad with `checkpoint="auto"`: the least memory for at most one more forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..files import WorkloadFiles
from .onnxgrad_session import OnnxgradSession
from .peer import Peer


class OnnxgradCheckpoint(OnnxgradSession):
    checkpoint = "auto"

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {"step": super().operations()["step"]}


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return OnnxgradCheckpoint(files, threads)
