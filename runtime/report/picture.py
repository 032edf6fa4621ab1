"""The joint graph as SVG: boxes for nodes, curves for values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from .facts import NodeFacts
from .layout import Place, layered

WIDTH, HEIGHT = 150, 34
"""Of a box."""
ACROSS, DOWN = 170, 58
"""From one box to the next."""
BETWEEN = 130
"""From the forward part to the backward part."""
PALETTE = "#4e79a7 #f28e2b #59a14f #e15759 #76b7b2 #b07aa1 #edc948 #ff9da7 #9c755f #d37295".split()
OTHER = "#bab0ac"
_MOST_LETTERS = 21


def draw_graph(nodes: Sequence[NodeFacts]) -> tuple[str, list[tuple[str, str]]]:
    """The picture, and the colours of its operators: the most frequent ones with their names, then "others"."""
    places = layered(range(len(nodes)), {index: node.reads for index, node in enumerate(nodes)}, _owners(nodes))
    left = max((place.column for place in places.values() if place.side == "forward"), default=0.0)
    shift = (left + 1) * ACROSS + BETWEEN

    def corner(place: Place) -> tuple[float, float]:
        return place.column * ACROSS + (shift if place.side == "backward" else 0), place.row * DOWN

    common = [name for name, _ in Counter(node.operator for node in nodes).most_common(len(PALETTE))]
    colors = dict(zip(common, PALETTE, strict=False))
    corners = {index: corner(place) for index, place in places.items()}
    wide = max((x for x, _ in corners.values()), default=0.0) + WIDTH
    high = max((y for _, y in corners.values()), default=0.0) + HEIGHT
    parts = [
        f'<svg id="graph" xmlns="http://www.w3.org/2000/svg" viewBox="-20 -50 {wide + 40:g} {high + 80:g}" role="img" '
        'aria-label="The joint graph: forward part on the left, backward part on the right">',
        f'<text class="side" x="0" y="-20">forward ↓</text><text class="side" x="{shift:g}" y="-20">backward ↑</text>',
    ]
    curves: dict[str, list[str]] = {"residual": [], "forward": [], "backward": []}
    for index, node in enumerate(nodes):
        for read in node.reads:
            kind, curve = _curve(places[read], corners[read], places[index], corners[index])
            curves[kind].append(curve)
    parts += [f'<path class="edge {kind}" d="{"".join(each)}"/>' for kind, each in curves.items() if each]
    for index, node in enumerate(nodes):
        x, y = corners[index]
        parts.append(
            f'<g class="node {node.phase}" data-index="{index}" transform="translate({x:g} {y:g})">'
            f"<title>{escape(_describe(node))}</title>"
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{colors.get(node.operator, OTHER)}"/>'
            f'<text x="8" y="14">{escape(_short(node.operator))}</text>'
            f'<text class="name" x="8" y="27">{escape(_short(node.name))}</text></g>'
        )
    parts.append("</svg>")
    legend = list(colors.items())
    if any(node.operator not in colors for node in nodes):
        legend.append(("others", OTHER))
    return "\n".join(parts), legend


def _owners(nodes: Sequence[NodeFacts]) -> dict[int, int | None]:
    """For each node that is not of the forward part, the forward node that it belongs to."""
    forward = {node.name: index for index, node in enumerate(nodes) if node.phase == "forward"}
    return {index: forward.get(node.forward_node) for index, node in enumerate(nodes) if node.phase != "forward"}


def _curve(source: Place, start: tuple[float, float], target: Place, end: tuple[float, float]) -> tuple[str, str]:
    """Of what part of the graph the value is, and its path from the box at *start* to the one at *end*."""
    if source.side != target.side:
        x, y, u, v = start[0] + WIDTH, start[1] + HEIGHT / 2, end[0], end[1] + HEIGHT / 2
        bend = max(40.0, (u - x) / 2)
        return "residual", f"M{x:g} {y:g}C{x + bend:g} {y:g} {u - bend:g} {v:g} {u:g} {v:g}"
    down = start[1] < end[1]
    x, u = start[0] + WIDTH / 2, end[0] + WIDTH / 2
    y, v = (start[1] + HEIGHT, end[1]) if down else (start[1], end[1] + HEIGHT)
    bend = (v - y) / 2
    return source.side, f"M{x:g} {y:g}C{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v:g}"


def _short(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"…{name[1 - _MOST_LETTERS :]}"


def _describe(node: NodeFacts) -> str:
    lines = [f"{node.operator} {node.name!r}"]
    if node.phase == "backward":
        lines.append(f"backward of {node.forward_node!r}, by the rule of {node.rule}")
    elif node.phase == "recomputed":
        lines.append(f"{node.forward_node!r} computed again")
    lines.append(node.outputs)
    lines.append(f"{node.bytes / 1e6:.3g} MB, {node.flops / 1e6:.3g} MFLOP")
    if node.milliseconds is not None:
        lines.append(f"{node.milliseconds:.3g} ms in the {node.phase} part of {node.forward_node!r}")
    if node.inner:
        lines.append(f"{node.inner} nodes inside")
    return "\n".join(lines)
