"""The first node that makes something bad of what is good."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..passes.errors import describe
from ..passes.subgraphs import captured_values


def find_origin(
    values: Sequence[ir.Value], bad: Callable[[ir.Value], bool], position: Mapping[ir.Node, int]
) -> ir.Node | ir.Value:
    """The first node that makes a *bad* value from good ones, of those from which badness reaches one of *values*.

    A bad graph input or constant comes before all nodes.

    Args:
        values: bad ones of one graph, at least one.
        position: of the nodes of that graph in the order in which they run.
    """
    nodes: list[ir.Node] = []
    stack, seen = list(values), set(values)
    while stack:
        current = stack.pop()
        node = current.producer()
        if node is None:
            return current
        read = [each for each in values_read(node) if bad(each)]
        if not read:
            nodes.append(node)
        stack += [each for each in read if each not in seen]
        seen.update(read)
    return min(nodes, key=lambda node: position[node])


@dataclass(frozen=True)
class Infinities:
    """A value that a node reads, and where its infinities come from."""

    name: str
    origin: ir.Node | ir.Value

    def __str__(self) -> str:
        where = repr(self.origin.name) if isinstance(self.origin, ir.Value) else describe(self.origin)
        return f"the infinities in {self.name!r} come from {where}"


def infinities_read(
    node: ir.Node, has_infinity: Callable[[ir.Value], bool], position: Mapping[ir.Node, int]
) -> tuple[Infinities, ...]:
    """Those in what *node* reads."""
    read = [value for value in values_read(node) if has_infinity(value)]
    return tuple(Infinities(str(value.name), find_origin([value], has_infinity, position)) for value in read)


def values_read(node: ir.Node) -> list[ir.Value]:
    """The inputs of *node* and what its bodies read from around it, each once."""
    return [value for value in dict.fromkeys((*node.inputs, *captured_values(node))) if value is not None]
