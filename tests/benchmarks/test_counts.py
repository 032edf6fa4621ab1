"""The joint graphs of the workloads do not grow."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from benchmarks.workloads import WORKLOADS

from .counts import Counts, read_table

SLACK = {"nodes": 0.0, "products": 0.0, "others": 0.0, "peak": 0.01}
"""How much more than the table says is no growth."""
STALE = 0.02
"""How much less the table must take notice of."""


def test_table_has_all_workloads() -> None:
    assert list(read_table()) == list(WORKLOADS)


@pytest.mark.parametrize("name", WORKLOADS)
def test_counts(name: str) -> None:
    expected, actual = asdict(read_table()[name]), asdict(Counts.of(WORKLOADS[name]))
    grown = [key for key, most in expected.items() if actual[key] > most * (1 + SLACK[key])]
    shrunk = [key for key, most in expected.items() if actual[key] < most * (1 - STALE)]
    assert not grown, f"{name} takes more {', '.join(grown)} than before: {actual}, not {expected}"
    assert not shrunk, (
        f"{name} takes fewer {', '.join(shrunk)}: {actual}, not {expected}. Very good; write the table anew: "
        "python -m tests.benchmarks.counts > tests/benchmarks/counts.txt"
    )
