"""The tables and curves of a report, as HTML and SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ...compiler.signature import Port, Signature
from .facts import DECADES, EXPLODING, VANISHING, Cost, Facts, GradientFacts

WIDE, HIGH = 1000, 220
"""Of the curve of memory."""
POINTS = 1000
"""The most points that it has; the highest of each stretch stands for it."""
ROWS = 60
"""The most rows of a table of layers; the rest is one row."""
LISTED = 8
"""How many of the values that live at the peak are named."""


def draw_memory(facts: Facts) -> str:
    """The bytes that live while each node is executed, the peak marked."""
    live, most = facts.live, max(facts.peak.bytes, 1)
    if not live:
        return "<p>The graph has no nodes.</p>"
    stretch = -(-len(live) // POINTS)
    highest = [max(live[start : start + stretch]) for start in range(0, len(live), stretch)]
    step = WIDE / len(live)
    points = [(min(index * stretch, len(live)) * step, HIGH - HIGH * size / most) for index, size in enumerate(highest)]
    outline = " ".join(f"L{x:.1f} {y:.1f}L{x + stretch * step:.1f} {y:.1f}" for x, y in points)
    parts = [
        f'<svg class="memory" xmlns="http://www.w3.org/2000/svg" viewBox="-70 -34 {WIDE + 90} {HIGH + 74}" role="img" '
        'aria-label="Memory over the order of execution">',
        *_phases(facts, step),
        f'<path class="area" d="M0 {HIGH}{outline}L{WIDE} {HIGH}Z"/>',
    ]
    for quarter in range(5):
        y = HIGH - HIGH * quarter / 4
        parts.append(f'<path class="grid" d="M0 {y:g}H{WIDE}"/><text class="axis" x="-8" y="{y + 4:g}">')
        parts.append(f"{megabytes(most * quarter / 4)}</text>")
    x = (live.index(max(live)) + 0.5) * step
    anchor = "end" if x > WIDE / 2 else "start"
    parts.append(f'<path class="peak" d="M{x:.1f} -6V{HIGH}"/><circle class="peak" cx="{x:.1f}" cy="0" r="4"/>')
    parts.append(
        f'<text class="label" x="{x:.1f}" y="-14" text-anchor="{anchor}">'
        f"peak {megabytes(facts.peak.bytes)} at {escape(facts.peak.node)}</text>"
        f'<text class="label" x="0" y="{HIGH + 34}">{len(live)} nodes in the order in which ONNX Runtime executes them '
        "→</text></svg>"
    )
    return "".join(parts)


def _phases(facts: Facts, step: float) -> Iterable[str]:
    """A strip below the curve that says of what part the nodes are."""
    start = 0
    phases = [facts.nodes[index].phase for index in facts.order]
    for index in range(1, len(phases) + 1):
        if index == len(phases) or phases[index] != phases[start]:
            x, width = start * step, (index - start) * step
            yield f'<rect class="{phases[start]}" x="{x:.2f}" y="{HIGH + 6}" width="{width:.2f}" height="9"/>'
            start = index


def list_live(facts: Facts) -> str:
    """What the peak is made of."""
    items = "".join(f"<li>{escape(name)} <b>{megabytes(size)}</b></li>" for name, size in facts.peak.live[:LISTED])
    more = len(facts.peak.live) - LISTED
    return f"<ol>{items}</ol>" + (f"<p>and {more} more</p>" if more > 0 else "")


def cost_table(costs: Sequence[Cost], what: str) -> str:
    """A row and a bar for each of *costs*, the largest first."""
    shown, rest = costs[:ROWS], costs[ROWS:]
    timed = bool(costs) and costs[0].milliseconds is not None
    whole = sum(cost.total for cost in costs) or 1.0
    largest = max((cost.total for cost in costs), default=0.0) or 1.0
    layers = what != "operator"
    rows = []
    for cost in shown:
        amounts = cost.flops if cost.milliseconds is None else cost.milliseconds
        bars = "".join(
            f'<i class="{phase}" style="width:{100 * amount / largest:.2f}%"></i>' for phase, amount in amounts.items()
        )
        cells = [escape(cost.name), *([escape(cost.operator)] if layers else []), str(sum(cost.nodes.values()))]
        cells += [f"{amount:.3f}" if timed else f"{amount / 1e6:.3f}" for amount in amounts.values()]
        if timed:
            cells.append(f"{sum(cost.flops.values()) / 1e6:.3f}")
        cells.append(f"{cost.total / whole:.1%}")
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f'<td class="bar">{bars}</td></tr>')
    if rest:
        span = 5 + layers + timed
        share = sum(cost.total for cost in rest) / whole
        rows.append(f'<tr><td colspan="{span}">and {len(rest)} more</td><td>{share:.1%}</td><td></td></tr>')
    unit = " ms" if timed else " MFLOP"
    heads = [what, *(["operator"] if layers else []), "nodes", f"forward{unit}", f"backward{unit}", f"recomputed{unit}"]
    heads += ["MFLOP"] if timed else []
    return _table([*heads, "share", ""], rows, "costs" + (" layers" if layers else ""))


def gradient_table(gradients: Sequence[GradientFacts]) -> str:
    """A row for each gradient, with the histogram of its magnitudes."""
    rows = []
    for each in gradients:
        cells = "".join(
            f'<i style="opacity:{max(0.08, share) if share else 0:.2f}" title="{share:.1%} of 10^{power}"></i>'
            for power, share in zip(DECADES, each.shares, strict=False)
        )
        verdict = f'<b class="bad">{each.verdict}</b>' if each.verdict else ""
        rows.append(
            f"<tr><td>{escape(each.name)}</td><td>{list(each.shape)}</td><td>{each.norm:.3g}</td><td>{each.rms:.3g}</td>"
            f'<td>{each.largest:.3g}</td><td>{each.zeros:.1%}</td><td class="heat">{cells}</td><td>{verdict}</td></tr>'
        )
    scale = f"<div><span>10<sup>{DECADES[0]}</sup></span> magnitudes <span>10<sup>{DECADES[-1]}</sup></span></div>"
    note = (
        f"<p>Vanishing and exploding: a root mean square below {VANISHING:g} or above {EXPLODING:g} of the median of "
        "all gradients. The darker a field, the more elements have that power of ten.</p>"
    )
    heads = ["gradient of", "shape", "norm", "rms", "largest", "zeros"]
    head = "".join(f"<th>{escape(text)}</th>" for text in heads) + f'<th class="scale">{scale}</th><th></th>'
    return f'{note}<table class="gradients"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def pass_table(facts: Facts) -> str:
    """What each pass did to the number of nodes."""
    if not facts.passes:
        return "<p>The file has no record of the passes: it was compiled by an older onnxgrad.</p>"
    rows = []
    for record in facts.passes:
        change = record.nodes_after - record.nodes_before
        rows.append(
            f"<tr><td>{escape(record.name)}</td><td>{record.nodes_before}</td><td>{record.nodes_after}</td>"
            f"<td>{f'{change:+d}' if change else '='}</td></tr>"
        )
    return _table(["pass", "nodes before", "nodes after", "change"], rows, "passes")


def signature_table(signature: Signature) -> str:
    """Inputs and outputs with their roles."""
    rows = [_port(port, "in") for port in signature.inputs] + [_port(port, "out") for port in signature.outputs]
    return _table(["", "name", "role", "type", "of", "partner"], rows, "signature")


def _port(port: Port, direction: str) -> str:
    shape = "" if port.shape is None else "[" + ", ".join("?" if d is None else str(d) for d in port.shape) + "]"
    partner = f"{port.partner}{' (in place)' if port.in_place else ''}" if port.partner else ""
    cells = (direction, port.name, port.role, f"{port.dtype}{shape}", port.of or "", partner)
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _table(heads: Sequence[str], rows: Sequence[str], kind: str) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def milliseconds(time: float) -> str:
    """*time*, in milliseconds, as text."""
    return f"{time:,.0f} ms" if time >= 100 else f"{time:.3g} ms"


def megabytes(size: float) -> str:
    """*size*, in bytes, as text."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e8 else f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"
