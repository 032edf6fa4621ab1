"""The report page: what is on it, that it asks nothing of any server, and that a browser shows it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import onnxgrad
from onnxgrad.compiler.save import save_model
from onnxgrad.passes.flops import count_flops
from onnxgrad.passes.peak_memory import estimate_peak
from onnxgrad.runtime.report.facts import Facts, gather
from onnxgrad.runtime.report.layout import layered
from onnxgrad.runtime.report.page import render, write_report
from tests.browser import find_browser, open_page
from tests.compiler.forward_models import mlp, parse, random

INPUTS = {"x": random(8, 4), "labels": np.arange(8) % 3}


class Document(HTMLParser):
    """The tags of a page, each with its attributes, and its text, scripts and styles left out."""

    VOID = frozenset({"meta", "input", "link", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += f"{data}\n"


@pytest.fixture(scope="module")
def facts() -> Facts:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate", checkpoint=1)
    return gather(program, "m.train.onnx", INPUTS)


def numbers(page: str) -> dict[str, list[float]]:
    found = re.search(r'<script type="application/json" id="numbers">(.*?)</script>', page)
    assert found is not None
    return dict(json.loads(found[1]))


def check_self_contained(page: str) -> Document:
    """A page of its own: nothing in it has an address elsewhere, and its drawings are well-formed."""
    document = Document(page)
    for tag, attributes in document.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use")
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"' <]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in page
    assert "@import" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)
    return document


def test_the_page_with_data(facts: Facts) -> None:
    document = check_self_contained(page := render(facts))
    boxes = [attributes for tag, attributes in document.tags if tag == "g"]
    assert len(boxes) == len(facts.nodes)
    phases = {str(box["class"]).split()[1] for box in boxes}
    assert phases == {node.phase for node in facts.nodes} >= {"forward", "backward"}
    assert numbers(page)["memory"] == [node.bytes for node in facts.nodes]
    assert max(numbers(page)["time"]) > 0
    for text in ("fc1.weight.grad.buffer", "SoftmaxCrossEntropyLoss", "Differentiate", "fc2", "accumulate"):
        assert text in document.text
    assert f"at {facts.peak.node}" in document.text


def test_the_page_without_data() -> None:
    facts = gather(onnxgrad.compile(mlp(), loss="cross_entropy"), "m", sizes={"batch": 16})
    document = check_self_contained(page := render(facts))
    assert numbers(page).keys() == {"memory"}
    assert not any(attributes.get("value") == "time" for _, attributes in document.tags)
    assert "Gradients and times need a batch" in document.text
    assert "Estimated for batch = 16" in document.text
    assert facts.gradients == ()


def test_the_numbers_are_those_of_the_program(facts: Facts) -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate", checkpoint=1)
    assert facts.sizes == {"batch": 8}
    assert facts.peak == estimate_peak(program.executable().graph, {"batch": 8})
    assert max(facts.live) == facts.peak.bytes
    assert sorted(facts.order) == list(range(len(facts.nodes)))
    gradients = program.session().grad(INPUTS)
    assert [gradient.name for gradient in facts.gradients] == list(gradients)
    for gradient in facts.gradients:
        array = gradients[gradient.name].astype(np.float64)
        assert gradient.norm == pytest.approx(np.linalg.norm(array), rel=1e-5)
        assert gradient.largest == pytest.approx(np.abs(array).max(), rel=1e-5)
        assert gradient.verdict == ""
        assert sum(gradient.shares) == pytest.approx(1)
    for costs in (facts.by_operator, facts.by_layer):
        assert sum(sum(cost.nodes.values()) for cost in costs) == len(facts.nodes)
        assert (
            sum(sum(cost.flops.values()) for cost in costs)
            == count_flops(program.executable().graph, facts.sizes).total
        )
    assert [record.name for record in facts.passes][-1] == "Schedule"


def test_vanishing_exploding_zero_and_broken_gradients_are_called_so() -> None:
    graph = """g (float[N, 3] x) => (float[N] y) {
        a = Mul (x, big) b = Mul (x, small) c = Mul (x, dead) d = Mul (x, one) e = Mul (x, two) r = Sqrt (broken)
        a1 = Mul (a, "1e6") b1 = Mul (b, "1e-6") c1 = Mul (c, "0")
        s = Sum (a1, b1, c1, d, e, r) y = ReduceSum <keepdims = 0> (s, axis)
    }"""
    weights = {name: np.ones(3, np.float32) for name in ("big", "small", "dead", "one", "two")}
    constants = {"1e6": np.float32(1e6), "1e-6": np.float32(1e-6), "0": np.float32(0), "axis": np.array([1])}
    model = parse(graph, {**weights, "broken": np.zeros(3, np.float32), **constants})
    program = onnxgrad.compile(model, wrt=[*weights, "broken"], loss="mse")
    facts = gather(program, "m", {"x": random(4, 3), "labels": np.zeros(4, np.float32)})
    assert {gradient.name: gradient.verdict for gradient in facts.gradients} == {
        "big": "exploding",
        "small": "vanishing",
        "dead": "zero",
        "one": "",
        "two": "",
        "broken": "not finite",
    }
    assert "exploding" in check_self_contained(render(facts)).text


EVIL = "</script><img src=x onerror=alert(1)>&amp;\"'"


def test_names_are_escaped() -> None:
    name = EVIL.replace('"', "")
    graph = f'g (float[N, 3] x) => (float[N, 3] y) {{ ["{name}"] p = Mul (x, "{name}") y = Tanh (p) }}'
    program = onnxgrad.compile(parse(graph, {name: random(3)}))
    document = check_self_contained(render(gather(program, EVIL, {"x": random(2, 3)})))
    assert name in document.text
    assert EVIL in document.text


def test_the_record_of_passes_survives_the_file(tmp_path: Path) -> None:
    program = onnxgrad.compile(mlp(), loss="cross_entropy", mode="accumulate")
    program.save(tmp_path / "m.train.onnx")
    loaded = onnxgrad.load(tmp_path / "m.train.onnx")
    assert [(r.name, r.nodes_before, r.nodes_after) for r in loaded.report] == [
        (r.name, r.nodes_before, r.nodes_after) for r in program.report
    ]
    assert all(record.seconds is None for record in loaded.report)
    loaded.model.metadata_props["onnxgrad.passes"] = "[[1]]"
    save_model(loaded.model, tmp_path / "damaged.onnx")
    with pytest.raises(onnxgrad.InvalidModelError, match="record of passes is damaged"):
        onnxgrad.load(tmp_path / "damaged.onnx")


def test_the_layout() -> None:
    """Two layers, a skip, and for each a backward node, of which the first layer has three."""
    reads = {0: [], 1: [0], 2: [1, 0], 3: [2], 4: [3, 1], 5: [4], 6: [4, 5], 7: []}
    owners = {3: 2, 4: 1, 5: 0, 6: 0, 7: None}
    places = layered(range(8), reads, owners)
    assert len({(place.side, place.column, place.row) for place in places.values()}) == 8
    assert {node for node, place in places.items() if place.side == "forward"} == {0, 1, 2}
    for node, sources in reads.items():
        for source in sources:
            if places[node].side == places[source].side:
                down = places[source].row < places[node].row
                assert down == (places[node].side == "forward")
    assert min(place.column for place in places.values()) == 0


@pytest.mark.parametrize("layers", [1, 450])
def test_a_graph_of_any_size(layers: int) -> None:
    """450 layers make more than 5,000 nodes."""
    steps = "".join(
        f"[m{i}] a{i} = Mul (y{i}, w) [e{i}] e{i} = Erf (a{i}) [t{i}] y{i + 1} = Add (e{i}, y{i})\n"
        for i in range(layers)
    )
    graph = f"g (float[N, 3] y0) => (float[N, 3] y) {{ {steps} y = Tanh (y{layers}) }}"
    facts = gather(onnxgrad.compile(parse(graph, {"w": random(3)})), "m")
    assert len(facts.nodes) > 7 * layers
    page = render(facts)
    check_self_contained(page)
    assert len(page) < 600 * len(facts.nodes) + 50_000


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on this machine: apt-get install chromium")
def test_a_browser_shows_it(facts: Facts, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(facts, file)
    with open_page(file, tmp_path / "profile") as page:
        assert page.evaluate("document.documentElement.dataset.ready") == "yes"
        assert page.evaluate("document.querySelectorAll('#graph .node').length") == len(facts.nodes)

        fills = "JSON.stringify([...document.querySelectorAll('#graph .node rect')].map(r => r.getAttribute('fill')))"
        seen = {}
        for coloring in ("memory", "time", "operator"):
            page.evaluate(
                f"(s => (s.value = '{coloring}', s.onchange({{target: s}})))(document.getElementById('coloring'))"
            )
            seen[coloring] = json.loads(page.evaluate(fills))
        assert seen["memory"][int(np.argmax([node.bytes for node in facts.nodes]))] == "rgb(185,28,28)"
        assert len({tuple(each) for each in seen.values()}) == 3
        assert all(fill.startswith("#") for fill in seen["operator"])

        box = "document.getElementById('graph').getAttribute('viewBox')"
        page.evaluate("document.getElementById('whole').click()")
        whole = [float(each) for each in page.evaluate(box).split()]
        page.evaluate("document.getElementById('closer').click()")
        closer = [float(each) for each in page.evaluate(box).split()]
        assert closer[2] == pytest.approx(whole[2] / 1.4)
        at = json.loads(page.evaluate("JSON.stringify(document.getElementById('graph').getBoundingClientRect())"))
        x, y = at["x"] + 200, at["y"] + 200
        for kind, moved in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
            page.call("Input.dispatchMouseEvent", type=kind, x=x + moved, y=y, button="left", buttons=1, clickCount=1)
        assert float(page.evaluate(box).split()[0]) < closer[0]
        page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
        page.evaluate("new Promise(done => requestAnimationFrame(done))")
        assert float(page.evaluate(box).split()[2]) < closer[2]
        page.evaluate("(f => (f.value = 'Tanh', f.oninput()))(document.getElementById('find'))")
        tanh = sum("Tanh" in f"{node.operator} {node.name!r}" for node in facts.nodes)
        assert page.evaluate("document.querySelectorAll('.hit').length") == tanh > 0

        assert page.requests == [file.as_uri()]
        assert page.problems == []
