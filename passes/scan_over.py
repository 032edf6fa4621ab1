"""Several seeds in one run: what depends on a seed is run once for each of them, the rest once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from .differentiate import PASS
from .subgraphs import captured_values
from .tape import Tape


def scan_over(graph: ir.Graph, stacks: Mapping[ir.Value, ir.Value], results: Sequence[ir.Value]) -> list[ir.Value]:
    """Run the nodes that depend on some values once for each slice of a stack of them.

    They become the body of a Scan. The forward part, which does not depend on the seeds, stays outside and runs once.

    Args:
        stacks: values without a producer, each with a value of the graph that has a first axis more; all of the same
            size along it.
        results: values of the graph, which nothing but graph outputs reads.

    Returns:
        for each result its stack: one more axis in front.
    """
    tape = Tape(graph)
    tape.at("seeds", {PASS: "scan_over"})
    moved = _dependents(graph, set(stacks))
    inside = {output for node in moved for output in node.outputs} | set(stacks)
    body = tape.body()
    graph.remove(moved)
    body.graph.inputs.extend(stacks)
    body.graph.extend(moved)
    varying = list(dict.fromkeys(value for value in results if value in inside))
    body.returns(*map(body.tensor, varying))
    count = tape.tensor(next(iter(stacks.values()))).shape[0]
    scanned = (
        tape.emit_many(
            "Scan",
            *map(tape.tensor, stacks.values()),
            outputs=len(varying),
            body=body.graph,
            num_scan_inputs=len(stacks),
        )
        if varying
        else ()
    )
    stacked = {}
    for value, tensor in zip(varying, scanned, strict=True):
        tensor.value.type = value.type
        tensor.value.shape = None if value.shape is None else ir.Shape([count, *value.shape])
        stacked[value] = tensor.value
    size = tape.tensor(next(iter(stacks.values()))).sizes([0])
    for value in results:
        if value not in stacked:  # the same for every seed
            sizes = tape.Concat(size, tape.tensor(value).sizes(), axis=0)
            stacked[value] = tape.Expand(tape.tensor(value), sizes).value
    return [stacked[value] for value in results]


def _dependents(graph: ir.Graph, sources: set[ir.Value]) -> list[ir.Node]:
    """The nodes that depend on *sources*, in the order of the graph."""
    reached, nodes = set(sources), []
    for node in graph:
        if any(value in reached for value in (*node.inputs, *captured_values(node))):
            reached.update(node.outputs)
            nodes.append(node)
    return nodes
