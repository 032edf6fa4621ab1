"""The forward part of a joint graph: where it is narrow, and how to run it again in the backward part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from itertools import accumulate

import onnx_ir as ir

from .differentiate import PASS
from .eliminate_common_subexpressions import RECOMPUTE, is_random
from .fresh_names import FreshNames
from .memory_of_values import memory_of, size_in_bytes
from .subgraphs import captured_values

SMALL = 1 << 12
"""Values of no more bytes are kept in any case."""


class ForwardPart:
    """The nodes of a joint graph that are not of its backward part, and what the latter reads of them.

    Args:
        forward: the names of the values that were there before the differentiation.
        sizes: of symbolic dims by name; others count as `NOMINAL_SIZE`.

    Attributes:
        nodes: the forward nodes; a *cut* is a position in them, and lies behind the node at that position.
    """

    def __init__(self, graph: ir.Graph, forward: Collection[str], sizes: Mapping[str, int]) -> None:
        self._graph = graph
        self._sizes = sizes
        names = frozenset(forward)
        self.nodes = [node for node in graph if not is_backward(node, names)]
        self._position = {node: index for index, node in enumerate(self.nodes)}
        self._last: dict[ir.Value, int] = {}
        """By the owner of memory, the position of its last reader in the forward part."""
        self._kept = {memory_of(value) for value in graph.outputs}
        self._residuals: set[ir.Value] = set()
        for node in graph:
            captured = [memory_of(value) for value in captured_values(node)]
            if node in self._position:
                read = [memory_of(value) for value in node.inputs if value is not None]
                self._last |= dict.fromkeys((*read, *captured), self._position[node])
            else:
                self._residuals.update(memory_of(v) for v in node.inputs if v is not None and self._is_forward(v))
                self._kept.update(captured)

    def position(self, value: ir.Value) -> int | None:
        """Of the forward node that computes *value*, None if none does."""
        node = value.producer()
        return None if node is None else self._position.get(node)

    def widths(self) -> list[int]:
        """For each cut the bytes of the values that are computed before it and read behind it."""
        change = [0] * (len(self.nodes) + 1)
        for owner, last in self._last.items():
            first = self.position(owner)
            if first is not None and owner not in self._kept:
                change[first] += self._bytes(owner)
                change[last] -= self._bytes(owner)
        return list(accumulate(change))[:-1]

    def residuals_before(self) -> list[int]:
        """For each cut the bytes of the values before it that the backward part reads.

        One that is larger than all others together does not count (log-probabilities over a vocabulary, at the end of
        the forward part): its bytes are no reason to cut next to it.
        """
        sizes = {owner: self._bytes(owner) for owner in self._residuals - self._kept}
        total = [0] * len(self.nodes)
        for owner, size in sizes.items():
            position = self.position(owner)
            if position is not None and size <= sum(sizes.values()) / 2:
                total[position] += size
        return list(accumulate(total))

    def repeat(self, cuts: Sequence[int]) -> list[ir.Node]:
        """Keep what crosses one of *cuts*, and run what lies before the last of them again where it is read.

        The backward part, as it stands in the graph, reads the copies afterwards, each of which stands right before
        its first reader and computes the very same value. Nothing random is run twice, nor what has a subgraph or
        is no operator of ONNX's own; each node is repeated at most once.

        Returns:
            the copies, marked with `RECOMPUTE`.
        """
        kept = self._kept | {owner for owner, last in self._last.items() if self._crosses(owner, last, cuts)}
        names = FreshNames(self._graph)
        copies: dict[ir.Node, ir.Node] = {}
        for reader in [node for node in self._graph if node not in self._position]:
            for index, value in enumerate(reader.inputs):
                if value is None or not self._is_repeated(value, kept, cuts):
                    continue
                for node in self._missing(value, kept, cuts, copies):
                    copies[node] = _copy(node, copies, names)
                    self._graph.insert_before(reader, copies[node])
                reader.replace_input_with(index, _copied(value, copies))
        return list(copies.values())

    def _missing(
        self, value: ir.Value, kept: Set[ir.Value], cuts: Sequence[int], copies: Mapping[ir.Node, ir.Node]
    ) -> list[ir.Node]:
        """The nodes that must be repeated for *value* and have not been, each behind those it reads."""
        found: set[ir.Node] = set()
        pending = [value]
        while pending:
            node = pending.pop().producer()
            if node is None or node in found or node in copies:
                continue
            found.add(node)
            pending.extend(v for v in node.inputs if v is not None and self._is_repeated(v, kept, cuts))
        return sorted(found, key=self._position.__getitem__)

    def _is_repeated(self, value: ir.Value, kept: Set[ir.Value], cuts: Sequence[int]) -> bool:
        """Whether the backward part is to have a copy of *value*, rather than to read it itself."""
        owner = memory_of(value)
        position, node = self.position(owner), owner.producer()
        if node is None or position is None or not cuts or position > max(cuts) or owner in kept:
            return False
        subgraph = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        return node.domain == "" and not subgraph and not is_random(node) and size_in_bytes(owner, self._sizes) > SMALL

    def _crosses(self, owner: ir.Value, last: int, cuts: Sequence[int]) -> bool:
        first = self.position(owner)
        return first is not None and any(first <= cut < last for cut in cuts)

    def _is_forward(self, value: ir.Value) -> bool:
        return self.position(value) is not None

    def _bytes(self, value: ir.Value) -> int:
        size = size_in_bytes(value, self._sizes)
        return int(size) if size < float("inf") else 0


def is_backward(node: ir.Node, forward: Collection[str]) -> bool:
    """Whether *node* is of the backward part of a joint graph with the *forward* values of these names."""
    emitted = node.metadata_props.get(PASS) == "differentiate" or RECOMPUTE in node.metadata_props
    return emitted and not any(value.name in forward for value in node.outputs)


def _copied(value: ir.Value, copies: Mapping[ir.Node, ir.Node]) -> ir.Value:
    node = value.producer()
    return copies[node].outputs[value.index() or 0] if node is not None and node in copies else value


def _copy(node: ir.Node, copies: Mapping[ir.Node, ir.Node], names: FreshNames) -> ir.Node:
    outputs = [
        ir.Value(name=names.fresh(f"{v.name}.recompute") if v.name else v.name, type=v.type, shape=v.shape)
        for v in node.outputs
    ]
    return ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else _copied(value, copies) for value in node.inputs],
        node.attributes.values(),
        outputs=outputs,
        name=names.fresh(f"{node.name or outputs[0].name}/recompute"),
        metadata_props={**node.metadata_props, PASS: "checkpoint", RECOMPUTE: node.name or str(node.outputs[0].name)},
    )
