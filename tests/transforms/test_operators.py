"""The Jacobian against its transpose on the cases of ONNX's backend suite.

A twentieth of the cases, chosen by their names, runs by default; all of them with ONNXGRAD_TRANSFORMS=all.
"""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from tests.backend.cases import load_cases
from tests.backend.check import Check, NotApplicable
from tests.backend.exceptions import reason_for
from tests.backend.oracles import by_reference
from tests.backend.points import moves
from tests.backend.precision import is_float_array

from .laws import AdjointCheck, Evaluator, both, check_adjoint
from .test_exports import ALL

COARSE = 1e-2
"""What float16 gives."""


def selected() -> list[str]:
    """The cases that have second derivatives: a tangent map is the derivative of one of first order."""
    names = [name for name in load_cases() if ALL or zlib.crc32(name.encode()) % 20 == 0]
    return [name for name in names if reason_for(name, "second") is None]


@pytest.mark.parametrize("name", selected())
def test_jacobian_and_transpose(name: str) -> None:
    case = load_cases()[name]
    try:
        check = Check(case)
    except NotApplicable as reason:
        pytest.skip(str(reason))
    wrt = [each for each in check.first.wrt if each not in check.first.unused]
    if all(check.feeds[each].size == 0 for each in wrt) or all(each.size == 0 for each in case.outputs.values()):
        pytest.skip("it has no elements")
    model = both(check.model, wrt, list(check.first.seeds))
    evaluator = Evaluator(model)
    floats = [value for value in (*check.feeds.values(), *case.outputs.values()) if is_float_array(value)]
    bound = COARSE if any(value.dtype.itemsize == 2 for value in floats) else 1e-5

    found = AdjointCheck(np.inf, 0)
    for move in moves(np.random.default_rng(0)):
        moved = {each: np.asarray(move(check.feeds[each].astype(np.float64))) for each in wrt}
        point = {**check.feeds, **{each: array.astype(check.feeds[each].dtype) for each, array in moved.items()}}
        found = check_adjoint(evaluator, point, case.outputs)
        if np.isfinite(found.error) and found.size > 0:
            break
    if found.error > bound:  # terms that cancel leave few digits
        found = check_adjoint(evaluator, point, case.outputs, by_reference(model).evaluate)
        bound = 1e-9
    assert found.error <= bound
    assert found.size > 0
