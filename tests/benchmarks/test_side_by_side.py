"""The benchmark measures, checks gradients, reports, and says what fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def rows(report: str, section: str) -> dict[str, list[str]]:
    """The cells of the first table under a heading or paragraph, by workload; the head is under "workload"."""
    lines = report.split(f"\n{section}" if f"\n{section}" in report else f"\n## {section}", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        table[name] = cells
    return table


def test_measures_and_reports(tmp_path: Path) -> None:
    run = bench(
        *("--workloads", "mlp-small", "--peers", "onnxgrad,overhead,onnx-ad", "--rounds", 2, "--seconds", 0.001),
        *("--nodes", 500),
        *("--output", tmp_path, "--cache", tmp_path / "cache", "--environments", tmp_path / "none"),
    )
    assert run.returncode == 0, run.stderr
    report = (tmp_path / "RESULTS.md").read_text()
    head, cells = (rows(report, "Step: loss")[name] for name in ("workload", "mlp-small"))
    step = dict(zip(head, cells, strict=True))
    # PyTorch eager is measured even if nobody asked for it: the ratios are to it.
    assert float(step["eager, ms"]) > 0
    assert float(step["onnxgrad"].split()[0]) > 0
    assert step["onnx-ad"] == "fails"
    assert f"not installed: there is no {tmp_path / 'none' / 'onnx-ad'}" in report
    assert float(rows(report, "Gradients against")["mlp-small"][0]) < 1e-5
    parts = dict(zip(*(rows(report, "Of onnxgrad")[name] for name in ("workload", "mlp-small")), strict=True))
    assert all(float(parts[part]) > 0 for part in ("compile", "create the session"))
    aims = rows(report, "Aims")
    assert float(aims["overhead of `session.backward`, µs"][1]) > 0
    assert aims["peak memory, to eager"][2] == "yes"
    assert float(rows(report, "Generated residual networks")["500"][0]) > 0
    for chart in ("step.png", "memory.png"):
        assert (tmp_path / chart).stat().st_size > 10_000


@pytest.mark.parametrize("option", [("--workloads", "mpl"), ("--peers", "onnxgrad,jaxx")])
def test_unknown_names_are_bad_input(option: tuple[str, str], tmp_path: Path) -> None:
    run = bench(*option, "--output", tmp_path)
    assert run.returncode == 2
    assert option[1].split(",")[-1] in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())
