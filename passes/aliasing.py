"""The proof that a graph input and the graph output that replaces it may share one memory."""

from __future__ import annotations

import onnx_ir as ir

_ELEMENTWISE = frozenset(
    "Abs Add Clip Div Exp Log Max Min Mul Neg Pow Reciprocal Relu Sigmoid Sqrt Sub Sum Tanh Where".split()
)
"""Operators of which every runtime computes element i of the output from element i of the inputs alone."""


def may_alias(graph: ir.Graph, source: ir.Value, target: ir.Value) -> bool:
    """Whether one memory may be bound as the graph input *source* and as the graph output *target*.

    It may when the node that writes *target* reads *source* element by element, as it writes, and everything else
    that depends on *source* runs before: is an ancestor of that node. That holds for the readers of derived values
    too, as a runtime may serve a Reshape as a view of its input, or fuse a reader into the nodes that follow it.
    False where there is no proof.
    """
    writer = target.producer()
    if writer is None or source.graph is not graph or writer.graph is not graph:
        return False
    if not source.is_graph_input() or source.is_graph_output() or not target.is_graph_output():
        return False
    if not _same_memory(source, target) or not _reads_as_it_writes(writer, source, target):
        return False
    readers = _readers(source, writer)
    if readers and not readers <= _ancestors(writer):
        return False
    # A view that is itself an output could be of the memory that is written over.
    return all(_computes(node) for node in readers if any(value.is_graph_output() for value in node.outputs))


def _same_memory(a: ir.Value, b: ir.Value) -> bool:
    """Whether dtype and shape are known, and known to be equal."""
    if a.dtype is None or a.dtype != b.dtype or a.shape is None or b.shape is None or a.shape != b.shape:
        return False
    return all(isinstance(dim, int) or dim.value is not None for dim in a.shape)


def _reads_as_it_writes(writer: ir.Node, source: ir.Value, target: ir.Value) -> bool:
    """Whether *writer* has read an element of *source* by the time it writes the element of *target* at its place."""
    if writer.domain not in ("", "ai.onnx"):
        return False
    positions = [index for index, value in enumerate(writer.inputs) if value is source]
    if not positions:
        return False
    if writer.op_type == "Gemm":
        return positions == [2]
    if writer.op_type == "Scan":
        return len(positions) == 1 and _scans_in_place(writer, positions[0], target)
    return _computes(writer)


def _computes(node: ir.Node) -> bool:
    """Whether the outputs of *node* are new memory, written element by element.

    Runtimes reduce three inputs or more of Max, Min and Sum pair by pair *in the output*, over what is yet to be read.
    """
    if node.op_type not in _ELEMENTWISE or node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type not in ("Max", "Min", "Sum") or len(node.inputs) == 2


def _scans_in_place(scan: ir.Node, position: int, target: ir.Value) -> bool:
    """Whether *scan* takes its input at *position* apart just as it puts *target* together, one slice in place each.

    A runtime lets the body read and write the slices in the whole tensors' own memory.
    """
    body = scan.attributes["body"].as_graph()
    states = len(scan.inputs) - scan.attributes["num_scan_inputs"].as_int()
    read, written = position - states, list(scan.outputs).index(target) - states
    if read < 0 or written < 0:
        return False
    for setting in ("axes", "directions"):
        if _entry(scan, f"scan_input_{setting}", read) != _entry(scan, f"scan_output_{setting}", written):
            return False
    return may_alias(body, body.inputs[position], body.outputs[states + written])


def _entry(node: ir.Node, attribute: str, index: int) -> int:
    return node.attributes[attribute].as_ints()[index] if attribute in node.attributes else 0


def _readers(source: ir.Value, writer: ir.Node) -> set[ir.Node]:
    """The nodes other than *writer*, in any graph, that read *source* or what they derive from it."""
    readers: set[ir.Node] = set()
    derived = [source]
    while derived:
        for node, _ in derived.pop().uses():
            if node is not writer and node not in readers:
                readers.add(node)
                derived.extend(node.outputs)
    return readers


def _ancestors(node: ir.Node) -> set[ir.Node]:
    ancestors: set[ir.Node] = set()
    pending = [node]
    while pending:
        for producer in pending.pop().predecessors():
            if producer not in ancestors:
                ancestors.add(producer)
                pending.append(producer)
    return ancestors
