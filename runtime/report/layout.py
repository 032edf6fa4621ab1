"""Where the nodes of a joint graph are drawn: the forward part on the left, what belongs to it on the right.

A forward node lies in the band of its depth, the bands one below the other. The backward nodes of a forward node lie
in its band, across from it, and what they compute flows up: a reader sees the gradient pass by each layer in turn. The
nodes of a row are ordered by where what they read lies (the barycentre heuristic of Sugiyama, Tagawa and Toda, 1981).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["forward", "backward"]

SWEEPS = 4
"""How many times the rows are ordered, from the top down and from the bottom up in turn."""


@dataclass(frozen=True)
class Place:
    """Where a node lies: *column* and *row* in units of one node, the columns of each side counted from its left."""

    side: Side
    column: float
    row: int


def layered(
    nodes: Sequence[int], reads: Mapping[int, Sequence[int]], belongs_to: Mapping[int, int | None]
) -> dict[int, Place]:
    """Place *nodes*, numbers in topological order.

    Args:
        reads: for each node the nodes whose values it reads.
        belongs_to: for each backward node the forward node whose band it lies in, None if it has none, which puts it
            into the band of a node that it reads; a node that is not in it is a forward node.

    Linear in nodes and edges, but for sorting the rows.
    """
    forward = [node for node in nodes if node not in belongs_to]
    backward = [node for node in nodes if node in belongs_to]
    band = _late(forward, reads, _depths(forward, reads))
    for node in backward:
        owner = belongs_to[node]
        near = [band[read] for read in reads[node] if read in band]
        band[node] = band[owner] if owner in band else min(near, default=0)

    # In its band a backward node lies above those of the band that it reads.
    height = _depths(backward, {node: [r for r in reads[node] if band.get(r) == band[node]] for node in backward})
    heights: dict[int, int] = defaultdict(lambda: 1)
    for node in backward:
        heights[band[node]] = max(heights[band[node]], height[node] + 1)
    top, start = 0, {}
    for index in range(max(band.values(), default=-1) + 1):
        start[index] = top
        top += heights[index]
    row = {node: start[band[node]] + (heights[band[node]] - 1) // 2 for node in forward}
    row |= {node: start[band[node]] + heights[band[node]] - 1 - height[node] for node in backward}
    places: dict[int, Place] = {}
    sides: tuple[tuple[Side, list[int]], ...] = (("forward", forward), ("backward", backward))
    for side, members in sides:
        for node, column in _columns(members, reads, row).items():
            places[node] = Place(side, column, row[node])
    return places


def _depths(nodes: Sequence[int], reads: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """For each of *nodes* the length of the longest path to it from another of them."""
    depths: dict[int, int] = {}
    for node in nodes:
        depths[node] = max((depths[read] + 1 for read in reads[node] if read in depths), default=0)
    return depths


def _late(nodes: Sequence[int], reads: Mapping[int, Sequence[int]], depths: Mapping[int, int]) -> dict[int, int]:
    """*depths*, with each node moved down to just above the first that reads it: a mask lies where it is used."""
    late = dict(depths)
    readers: dict[int, list[int]] = defaultdict(list)
    for node in reversed(nodes):
        if readers[node]:
            late[node] = min(late[reader] for reader in readers[node]) - 1
        for read in reads[node]:
            readers[read].append(node)
    return late


def _columns(nodes: Sequence[int], reads: Mapping[int, Sequence[int]], row: Mapping[int, int]) -> dict[int, float]:
    """The column of each node, the rows centred."""
    members = set(nodes)
    neighbours: dict[int, list[int]] = {node: [read for read in reads[node] if read in members] for node in nodes}
    for node in nodes:
        for read in reads[node]:
            if read in members:
                neighbours[read].append(node)
    rows: dict[int, list[int]] = defaultdict(list)
    for node in nodes:
        rows[row[node]].append(node)
    column: dict[int, float] = {}
    for line in rows.values():
        _spread(line, column)
    for sweep in range(SWEEPS):
        for index in sorted(rows, reverse=bool(sweep % 2)):
            rows[index].sort(key=lambda node: _mean([column[near] for near in neighbours[node]], column[node]))
            _spread(rows[index], column)
    left = min(column.values(), default=0.0)
    return {node: place - left for node, place in column.items()}


def _spread(line: Sequence[int], column: dict[int, float]) -> None:
    for index, node in enumerate(line):
        column[node] = index - (len(line) - 1) / 2


def _mean(numbers: Sequence[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default
