from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from ..zoo.exports import Export


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Export], Path]:
    """The file of an export, which is made at its first use and kept for the session (of one xdist worker)."""
    folder = tmp_path_factory.mktemp("exports")

    def path(export: Export) -> Path:
        file = folder / f"{export.name}.onnx"
        if not file.exists():
            onnx.save(export.to_onnx(export.architecture.build()), file)
        return file

    return path
