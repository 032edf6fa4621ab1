"""What the tests print at their end: how much of ONNX's backend suite passed."""

from __future__ import annotations

from collections import Counter

import pytest
from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reports = [report for state in ("passed", "failed") for report in terminalreporter.getreports(state)]
    counts = Counter(
        tuple(value)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "backend suite"
    )
    if not counts:
        return
    terminalreporter.write_sep("=", "ONNX's backend suite: cases that pass / that have a gradient")
    modes = list(dict.fromkeys(mode for _, mode, _ in sorted(counts)))
    for kind in sorted({kind for kind, _, _ in counts}):
        cells = []
        for mode in modes:
            passed, failed = counts[kind, mode, "passed"], counts[kind, mode, "failed"]
            cells.append(f"{mode} {passed} / {passed + failed}")
        without = counts[kind, modes[0], "not applicable"]
        terminalreporter.write_line(f"{kind:18} {'   '.join(cells)}   without a gradient {without}")
