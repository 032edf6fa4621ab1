"""The suite's verdicts: for each case, what came of each of its checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnxgrad

from .cases import Case
from .check import Check, NotApplicable

MODES = ("gradient", "symbolic", "second")

State = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Verdict:
    """What came of one check; *why* is empty for one that passed."""

    state: State
    why: str = ""


def examine(case: Case) -> dict[str, Verdict]:
    """The verdict of each mode."""
    try:
        check = Check(case)
    except NotApplicable as reason:
        return dict.fromkeys(MODES, Verdict("not applicable", str(reason)))
    except Exception as error:
        return dict.fromkeys(MODES, _failure(error))
    return {mode: _examine(check, mode) for mode in MODES}


def _examine(check: Check, mode: str) -> Verdict:
    try:
        getattr(check, mode)()
    except Exception as error:
        return _failure(error)
    return Verdict("passed")


def _failure(error: Exception) -> Verdict:
    kind = "" if isinstance(error, AssertionError | onnxgrad.Error) else f"{type(error).__name__}: "
    return Verdict("failed", kind + str(error))
