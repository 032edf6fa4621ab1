"""Checkpointing: segments of the forward part are run again in the backward part instead of being kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from .differentiate import PASS
from .errors import InputError
from .flops import count_flops
from .forward_part import ForwardPart
from .peak_memory import totals_in_bytes
from .schedule import Schedule

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""How many checkpoints are tried."""
AS_GOOD = 1.05
"""Of the least estimated peak; what is no more counts as much."""


def is_checkpointed(graph: ir.Graph) -> bool:
    """Whether `Checkpoint` has repeated any node of *graph*."""
    return any(node.metadata_props.get(PASS) == "checkpoint" for node in graph)


class Checkpoint(ir.passes.InPlacePass):
    """Keep some forward values, and compute the others again, from those, where the backward part reads them.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016: the forward part is cut where few bytes cross,
    what crosses is kept, and the backward part of each segment but the last begins with running that segment again.
    The gradients are the same to the last bit. Each node is repeated at most once.

    Args:
        forward: the names of the values of the forward part.
        at: names and glob patterns of values to cut behind, the number of cuts, or "auto", which takes the number with
            the least estimated peak of a run that gives the gradients alone; of several that are as good, those where
            the least lives beside fresh gradients, and of those the one that repeats the least arithmetic.
        budget: in bytes; the least is repeated with which the estimated peak is no more.
        sizes: of symbolic dims by name, for the estimates; others count as `NOMINAL_SIZE`.

    Requires: shapes are inferred. Guarantees: no value changes; repeated nodes are marked with `RECOMPUTE`.

    Raises InputError when a name is that of no forward value, and when the budget is too small.
    """

    def __init__(
        self,
        forward: Collection[str],
        at: str | int | Sequence[str] = "auto",
        *,
        budget: int | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self._forward = forward
        self._at = at
        self._budget = budget
        self._sizes = sizes or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        part = ForwardPart(model.graph, self._forward, self._sizes)
        if self._budget is not None:
            cuts = self._within(model, part, self._budget)
        elif self._at == "auto":
            choices = dict.fromkeys([(), *(_narrow_cuts(part, count) for count in COUNTS)])
            cuts = _least({each: self._estimates(model, each) for each in choices})
        elif isinstance(self._at, int):
            cuts = _narrow_cuts(part, self._at)
        else:
            cuts = _cuts_behind(part, [self._at] if isinstance(self._at, str) else self._at)
        return ir.passes.PassResult(model, bool(part.repeat(cuts)))

    def _within(self, model: ir.Model, part: ForwardPart, budget: int) -> tuple[int, ...]:
        """The cuts with which the least is repeated within *budget*; the first segments are, the others are kept."""
        choices: dict[tuple[int, ...], tuple[int, int]] = {(): self._repeated(model, ())}
        for count in () if choices[()][0] <= budget else COUNTS:
            cuts = _narrow_cuts(part, count)
            fewest, most = 1, len(cuts)
            while fewest <= most:  # a binary search: the peak falls with each segment more that is repeated
                middle = (fewest + most) // 2
                choices[cuts[:middle]] = self._repeated(model, cuts[:middle])
                fits = choices[cuts[:middle]][0] <= budget
                fewest, most = (fewest, middle - 1) if fits else (middle + 1, most)
        fitting = [cuts for cuts, (peak, _) in choices.items() if peak <= budget]
        if not fitting:
            least = min(peak for peak, _ in choices.values())
            raise InputError(
                f"No checkpoints bring the estimated peak of memory down to {budget:,} bytes; the least that is "
                f"possible is {least:,} bytes. Allow that much, or make the batch smaller"
            )
        return min(fitting, key=lambda cuts: choices[cuts][1])

    def _repeated(self, model: ir.Model, cuts: Sequence[int]) -> tuple[int, int]:
        """The estimated peak with *cuts*, and the arithmetic that is repeated."""
        graph, copies = self._trial(model, cuts)
        return max(totals_in_bytes(graph, self._sizes), default=0), count_flops(copies, self._sizes).total

    def _estimates(self, model: ir.Model, cuts: Sequence[int]) -> tuple[int, int, int]:
        """With *cuts*, the peak with fresh gradients and without, and the arithmetic that is repeated."""
        graph, copies = self._trial(model, cuts)
        graph.outputs[:] = [value for value in graph.outputs if value.name not in self._forward]
        fresh, inner = (max(totals_in_bytes(graph, self._sizes, outputs=each), default=0) for each in (True, False))
        return fresh, inner, count_flops(copies, self._sizes).total

    def _trial(self, model: ir.Model, cuts: Sequence[int]) -> tuple[ir.Graph, list[ir.Node]]:
        """The graph with *cuts*, scheduled, and the nodes that are repeated in it."""
        trial = model.clone()
        copies = ForwardPart(trial.graph, self._forward, self._sizes).repeat(cuts)
        Schedule(self._sizes, self._forward).call(trial)
        return trial.graph, copies


def _least(estimates: Mapping[tuple[int, ...], tuple[int, int, int]]) -> tuple[int, ...]:
    """The cuts with the least of the first estimate, or as good; of those with the least of the second, and so on."""
    left = list(estimates)
    for which in (0, 1):
        least = min(estimates[cuts][which] for cuts in left)
        left = [cuts for cuts in left if estimates[cuts][which] <= AS_GOOD * least]
    return min(left, key=lambda cuts: estimates[cuts][2])


def _narrow_cuts(part: ForwardPart, count: int) -> tuple[int, ...]:
    """*count* cuts that share the residuals out evenly, each where the fewest bytes cross nearby."""
    widths, before = part.widths(), part.residuals_before()
    if not before or not before[-1]:
        return ()
    share = before[-1] / (count + 1)
    cuts = []
    for index in range(1, count + 1):
        near = [cut for cut, size in enumerate(before) if abs(size - index * share) <= share / 2]
        if near:
            cuts.append(min(near, key=lambda cut: (widths[cut], abs(before[cut] - index * share))))
    return tuple(sorted(set(cuts)))


def _cuts_behind(part: ForwardPart, patterns: Sequence[str]) -> tuple[int, ...]:
    positions = {str(value.name): index for index, node in enumerate(part.nodes) for value in node.outputs}
    if not patterns:
        raise InputError("`checkpoint` names nothing")
    cuts = set()
    for pattern in patterns:
        found = [positions[pattern]] if pattern in positions else []
        found = found or [position for name, position in positions.items() if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"The checkpoint {pattern!r} is no value that the forward graph computes; "
                "`onnxgrad compile --dump FOLDER` writes the graph with its names"
            )
        cuts.update(found)
    return tuple(sorted(cuts))
