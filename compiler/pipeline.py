"""The pipeline: passes run one after the other, each recorded, each observable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ..passes.errors import InvalidModelError
from ..passes.subgraphs import all_graphs


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: nodes of the graph before and after (subgraphs included), and its wall time in seconds.

    The time is not kept in a file, whose bytes must not depend on it: None for a program that was loaded.
    """

    name: str
    nodes_before: int
    nodes_after: int
    seconds: float | None = None


PASSES_KEY = "onnxgrad.passes"
"""Metadata key of a joint graph: the records of the passes of its compilation, as JSON."""

OnPass = Callable[[PassRecord, ir.Model], None]
"""Called after each pass with its record and the model as it is then (not to be changed)."""


class Pipeline:
    """Runs passes on one model and keeps a record of each."""

    def __init__(self, model: ir.Model, on_pass: OnPass | None = None) -> None:
        self.model = model
        self.records: list[PassRecord] = []
        self._on_pass = on_pass

    def run(self, passes: Iterable[ir.passes.PassBase]) -> bool:
        """Run *passes* in order; an `onnxgrad.Error` that one raises comes out as itself.

        Returns:
            whether one of them changed the model.
        """
        changed = [self.step(type(step).__name__, lambda step=step: step.call(self.model)) for step in passes]  # type: ignore[misc]
        return any(changed)

    def step(self, name: str, action: Callable[[], object]) -> bool:
        """Run *action*, which changes the model in place unless it says otherwise, as the pass *name*.

        Returns:
            whether it changed the model.
        """
        # Only steps change how many nodes there are.
        before = self.records[-1].nodes_after if self.records else count_nodes(self.model)
        start = time.perf_counter()
        result = action()
        seconds = time.perf_counter() - start
        changed = not isinstance(result, ir.passes.PassResult) or result.modified
        record = PassRecord(name, before, count_nodes(self.model) if changed else before, seconds)
        self.records.append(record)
        if self._on_pass is not None:
            self._on_pass(record, self.model)
        return changed


def count_nodes(model: ir.Model) -> int:
    """The number of nodes in the graph and its subgraphs."""
    return sum(len(graph) for graph in all_graphs(model.graph))


def keep_pass_records(model: ir.Model, records: Iterable[PassRecord]) -> None:
    """Write *records*, without the times, into the metadata of *model*."""
    kept = [[record.name, record.nodes_before, record.nodes_after] for record in records]
    model.metadata_props[PASSES_KEY] = json.dumps(kept, separators=(",", ":"))


def read_pass_records(model: ir.Model) -> list[PassRecord]:
    """What `keep_pass_records` wrote, empty if it did not. Raises InvalidModelError for something else."""
    text = model.metadata_props.get(PASSES_KEY, "[]")
    try:
        return [PassRecord(str(name), int(before), int(after)) for name, before, after in json.loads(text)]
    except (TypeError, ValueError) as error:
        raise InvalidModelError(f"The joint graph's record of passes is damaged: {error}") from error
