"""Names that nothing in a model bears yet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import onnx_ir as ir

from .subgraphs import all_graphs


class FreshNames:
    """Gives names that no value and no node of *graphs* and their subgraphs bears, and none that was given before."""

    def __init__(self, *graphs: ir.Graph) -> None:
        self._graphs = graphs

    @cached_property
    def _counts(self) -> dict[str, int]:
        """The names that are taken, each with the last number that was tried after it; found when one is asked for."""
        counts: dict[str, int] = {}
        for graph in self._graphs:
            for each in all_graphs(graph):
                nodes = list(each)
                counts.update((node.name or "", 0) for node in nodes)
                counts.update((value.name or "", 0) for node in nodes for value in node.outputs)
                counts.update((value.name or "", 0) for value in each.inputs)
                counts.update(dict.fromkeys(each.initializers, 0))
        return counts

    def fresh(self, stem: str) -> str:
        """*stem* if it is free, or else *stem* with a number."""
        count = self._counts.get(stem)
        if count is None:
            self._counts[stem] = 0
            return stem
        while True:
            count += 1
            name = f"{stem}_{count}"
            if name not in self._counts:
                self._counts[stem] = count
                self._counts[name] = 0
                return name


def values_in(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of *graph* and its subgraphs, once: inputs, initializers, and what the nodes compute."""
    for each in all_graphs(graph):
        yield from each.inputs
        yield from (value for value in each.initializers.values() if not value.is_graph_input())
        yield from (value for node in each for value in node.outputs)
