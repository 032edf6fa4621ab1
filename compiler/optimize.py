"""The passes that make a graph and its derivative lean."""

from __future__ import annotations

from collections.abc import Collection

from ..passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from ..passes.eliminate_dead_code import EliminateDeadCode
from ..passes.lower_cross_entropy import LowerCrossEntropy
from ..passes.move_row_factors import MoveRowFactors
from ..passes.simplify import Simplify
from ..passes.write_in_parts import WriteInParts
from .pipeline import Pipeline


def optimize(pipeline: Pipeline, protected: Collection[str]) -> None:
    """Make a graph lean that has been differentiated.

    Args:
        protected: names of values that stay, and of initializers that are no constants.
    """
    pipeline.run([LowerCrossEntropy(), WriteInParts(protected), Simplify(protected)])
    if pipeline.run([EliminateCommonSubexpressions(protected)]):
        pipeline.run([Simplify(protected)])
    pipeline.run([EliminateDeadCode(protected), MoveRowFactors(protected)])
