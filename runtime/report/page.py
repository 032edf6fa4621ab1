"""The report as one HTML file that asks nothing of any server: style, script and pictures are in it."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from ...compiler.save import write_file
from . import charts
from .facts import STEPS, Facts
from .picture import draw_graph


def write_report(facts: Facts, path: Path) -> None:
    """Write the page to *path*, whole or not at all. Raises Error when it cannot be written."""
    write_file(path, render(facts).encode())


def render(facts: Facts) -> str:
    """The page as text. Names of the model are escaped wherever they appear."""
    graph, legend = draw_graph(facts.nodes)
    timed = facts.profile is not None
    numbers: dict[str, list[float]] = {"memory": [node.bytes for node in facts.nodes]}
    if timed:
        numbers["time"] = [round(node.milliseconds or 0.0, 4) for node in facts.nodes]
    return Template(_text("page.html")).substitute(
        title=escape(facts.title),
        style=_text("page.css"),
        script=_text("page.js"),
        summary=_summary(facts),
        time_option='<option value="time">time of its layer</option>' if timed else "",
        legend="".join(f'<span><i style="background:{color}"></i>{escape(name)}</span>' for name, color in legend),
        graph=graph,
        sizes=_sizes(facts),
        memory=charts.draw_memory(facts),
        live=charts.list_live(facts),
        cost_note=_cost_note(facts),
        operators=charts.cost_table(facts.by_operator, "operator"),
        layers=charts.cost_table(facts.by_layer, "forward node"),
        gradients=charts.gradient_table(facts.gradients) if timed else _WITHOUT_DATA,
        passes=charts.pass_table(facts),
        signature=charts.signature_table(facts.signature),
        # What would end the script early is written as JSON's own escape.
        numbers=json.dumps(numbers).replace("<", "\\u003c"),
    )


_WITHOUT_DATA = "<p>Gradients and times need a batch: <code>onnxgrad report … --data batch.npz</code></p>"


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _summary(facts: Facts) -> str:
    phases = [node.phase for node in facts.nodes]
    parts = [
        f"mode {facts.signature.mode}",
        f"opset {facts.opset}",
        f"{len(phases)} nodes ({phases.count('forward')} forward, {phases.count('backward')} backward, "
        f"{phases.count('recomputed')} recomputed)",
        f"{facts.parameters} parameters with {facts.parameter_elements:,} elements",
        f"estimated peak of activations {charts.megabytes(facts.peak.bytes)}",
    ]
    if facts.profile is not None:
        parts.append(f"{charts.milliseconds(facts.profile.step)} a step")
    return escape(" · ".join(parts))


def _sizes(facts: Facts) -> str:
    given = ", ".join(f"{name} = {size}" for name, size in facts.sizes.items())
    return escape(f"Estimated{f' for {given}' if given else ''}; inputs and parameters are not counted.")


def _cost_note(facts: Facts) -> str:
    if facts.profile is None:
        return "The arithmetic of the nodes; with <code>--data</code> it is the time that they take, too."
    lost = sum(kernel.milliseconds for kernel in facts.profile.unattributed)
    missing = f", {lost:.2g} ms of which could not be attributed" if lost else ""
    return (
        f"Milliseconds of a step, the median of {facts.profile.steps or STEPS} under ONNX Runtime's profiler: "
        f"{charts.milliseconds(facts.profile.total)} in kernels{missing}. The backward part counts under the "
        "operator whose rule emitted it."
    )
