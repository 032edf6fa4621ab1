"""All simplifications, until none fits any more."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from .eliminate_identities import EliminateIdentities
from .fold_factors import FoldFactors
from .fold_transposes import FoldTransposes
from .join_parts import JoinParts
from .merge_views import MergeViews
from .rewriting import RewritePass, Rewriter
from .simplify_algebra import SimplifyAlgebra


class Simplify(ir.passes.InPlacePass):
    """Run its six passes (see `__init__`) in turn until the graph is simple.

    Args:
        protected: names of values that must stay, and of parameters, which are no constants.

    Requires: shapes are inferred; the opset is the canonical one.
    Guarantees: those of the passes.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        kinds = (EliminateIdentities, MergeViews, SimplifyAlgebra, FoldTransposes, FoldFactors, JoinParts)
        self.passes: list[RewritePass] = [kind(protected) for kind in kinds]
        self._protected = protected

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        rewriter = Rewriter(model, self._protected)
        modified = False
        settled: set[RewritePass] = set()
        while (step := next((step for step in self.passes if step not in settled), None)) is not None:
            if rewriter.run(step.rules()):
                modified = True
                settled.clear()
            settled.add(step)
        return ir.passes.PassResult(model, modified)
