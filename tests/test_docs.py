"""The code in docs/ runs, and what the PyTorch column gives, the onnxgrad column gives too.

A block whose fence says `pytorch` and the `onnxgrad` block after it each leave a `result`, which are compared.
"""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.running import run

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(r"^```(python|sh)( pytorch| onnxgrad)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["pytorch.md", "transformations.md"])
def test_the_code_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text()
    names: dict[str, Any] = {"__name__": "page"}
    expected = None
    blocks = list(_BLOCK.finditer(text))
    assert len(blocks) == text.count("\n```") / 2, "every block is run"
    for block in blocks:
        language, column, code = block[1], (block[2] or "").strip(), block[3]
        line = text.count("\n", 0, block.start()) + 1
        if language == "sh":
            for command in code.strip().splitlines():
                finished = run(*shlex.split(command)[1:])
                assert finished.code == 0, f"{page}:{line}: {finished.err}"
            continue
        names.pop("result", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile("\n" * line + code, DOCS / page, "exec"), names)
        found = names.get("result")
        if column == "pytorch":
            expected = found
        elif expected is not None:
            assert found is not None, f"{page}:{line} gives no result"
            np.testing.assert_allclose(found, _array(expected), rtol=1e-4, atol=1e-6, err_msg=f"{page}:{line}")
            expected = None


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach() if hasattr(value, "detach") else value)
