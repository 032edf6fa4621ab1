"""The passes that make a graph and its derivative lean."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from ..passes.eliminate_dead_code import EliminateDeadCode
from ..passes.lower_cross_entropy import LowerCrossEntropy
from ..passes.move_row_factors import MoveRowFactors
from ..passes.simplify import Simplify
from ..passes.write_in_parts import WriteInParts


def optimizations(protected: Collection[str]) -> list[ir.passes.InPlacePass]:
    """The passes, in order, for a graph that has been differentiated.

    Args:
        protected: names of values that stay, and of initializers that are no constants.
    """
    return [
        LowerCrossEntropy(),
        WriteInParts(protected),
        Simplify(protected),
        EliminateCommonSubexpressions(protected),
        Simplify(protected),
        EliminateDeadCode(protected),
        MoveRowFactors(protected),
    ]
