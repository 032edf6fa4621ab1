"""onnxgrad against ONNX's backend test suite: every case passes, has no gradient, or is listed with the reason.

A quarter of the cases, chosen by their names, runs by default; all of them with ONNXGRAD_BACKEND_SUITE=all.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest

from .cases import load_cases
from .exceptions import EXCEPTIONS, reason_for
from .suite import MODES, examine

ALL = os.environ.get("ONNXGRAD_BACKEND_SUITE") == "all"


def selected() -> list[str]:
    return [name for name in load_cases() if ALL or zlib.crc32(name.encode()) % 4 == 0]


@pytest.mark.parametrize("name", selected())
def test_case(name: str, record_property: Callable[[str, object], None]) -> None:
    case = load_cases()[name]
    complaints = []
    for mode, verdict in examine(case).items():
        reason = reason_for(name, mode)
        record_property("backend suite", (case.kind, mode, verdict.state))
        if verdict.state == "failed" and reason is None:
            complaints.append(f"{mode}: {verdict.why}")
        if verdict.state != "failed" and reason is not None:
            complaints.append(f"{mode}: {verdict.state}, though listed as failing because {reason}; unlist it")
    assert not complaints, "\n".join(complaints)


def test_every_exception_is_of_a_case() -> None:
    unused = [
        pattern
        for exceptions in EXCEPTIONS.values()
        for pattern in exceptions
        if not any(fnmatchcase(name, pattern) for name in load_cases())
    ]
    assert set(EXCEPTIONS) == {"*", *MODES}
    assert not unused
