"""Models in a form that onnx's reference evaluator can read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

_REVERSE = {
    "last": np.array([-1]),
    "end": np.array([np.iinfo(np.int64).min]),
    "axis": np.array([0]),
    "step": np.array([-1]),
}


def readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of *model* with reversed sequences in the place of Scans that run backwards."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _let_scans_run_forwards(copy.graph)
    return copy


def _let_scans_run_forwards(graph: onnx.GraphProto) -> None:
    for inner in _subgraphs(graph):
        _let_scans_run_forwards(inner)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Scan":
            nodes.append(node)
            continue
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        count = attributes["num_scan_inputs"]
        prefix = f"turned.{len(nodes)}"
        ahead = _turn(graph, prefix, node.input, len(node.input) - count, attributes.get("scan_input_directions", []))
        states = len(attributes["body"].input) - count
        behind = _turn(graph, prefix, node.output, states, attributes.get("scan_output_directions", []))
        nodes += [*(_reversal(old, new) for old, new in ahead), node, *(_reversal(new, old) for old, new in behind)]
        kept = [attribute for attribute in node.attribute if not attribute.name.endswith("_directions")]
        del node.attribute[:]
        node.attribute.extend(kept)
    del graph.node[:]
    graph.node.extend(nodes)


def _turn(
    graph: onnx.GraphProto, prefix: str, names: list[str], first: int, directions: list[int]
) -> list[tuple[str, str]]:
    """Rename those of *names* from *first* on that run backwards; the old and new names."""
    turned = []
    for index, backwards in enumerate(directions, first):
        if backwards:
            turned.append((names[index], f"{prefix}.{names[index]}.{index}"))
            names[index] = turned[-1][1]
    if turned and not any(tensor.name == "reverse.last" for tensor in graph.initializer):
        graph.initializer.extend(numpy_helper.from_array(array, f"reverse.{what}") for what, array in _REVERSE.items())
    return turned


def _reversal(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Slice", [source, *(f"reverse.{what}" for what in _REVERSE)], [result])


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs
