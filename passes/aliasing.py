"""The proof that a graph input and the graph output that replaces it may share one memory."""

from __future__ import annotations

from collections.abc import Set

import onnx_ir as ir

_STANDARD = ("", "ai.onnx")

_ELEMENTWISE = frozenset(
    "Abs Add Cast Clip Div Exp Log Max Min Mul Neg Pow Reciprocal Relu Sigmoid Sqrt Sub Sum Tanh Where".split()
)
"""Operators of which every runtime computes element i of the output from element i of the inputs alone."""


def may_alias(graph: ir.Graph, source: ir.Value, target: ir.Value) -> bool:
    """Whether one memory may be bound as the graph input *source* and as the graph output *target*.

    It may when all that depends on *source* runs before the node that writes *target*, and that node reads *source*,
    and what was derived from it, element by element as it writes. Readers of derived values count because a runtime
    may serve a Reshape as a view of its input, and fuse a node into those that follow it. False where there is no
    proof.
    """
    writer = target.producer()
    if writer is None or source.graph is not graph or writer.graph is not graph:
        return False
    if not source.is_graph_input() or source.is_graph_output() or not target.is_graph_output():
        return False
    if source.dtype is None or source.dtype != target.dtype or not _same_shape(source, target):
        return False
    readers = _readers(source, writer)
    if readers and not readers <= _ancestors(writer):
        return False
    # A view that is itself an output could be of the memory that is written over.
    if not all(_computes(node) for node in readers if any(value.is_graph_output() for value in node.outputs)):
        return False
    derived = {source, *(value for node in readers for value in node.outputs)}
    return _reads_as_it_writes(writer, source, derived, target)


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether the shapes are known, and known to be equal."""
    if a.shape is None or b.shape is None or a.shape != b.shape:
        return False
    return all(isinstance(dim, int) or dim.value is not None for dim in a.shape)


def _reads_as_it_writes(writer: ir.Node, source: ir.Value, derived: Set[ir.Value], target: ir.Value) -> bool:
    """Whether *writer* reads no element of *source* after it wrote the element of *target* at its place."""
    positions = [index for index, value in enumerate(writer.inputs) if value in derived]
    if writer.op_type == "Scan" and writer.domain in _STANDARD:
        return len(positions) == 1 and writer.inputs[positions[0]] is source and _scans(writer, positions[0], target)
    if writer.op_type == "Gemm" and writer.domain in _STANDARD:
        if positions != [2]:
            return False
    elif writer.op_type == "ScatterElements" and writer.domain in _STANDARD:
        # A copy of its first input, unless that is the same memory, to which the updates go then.
        if positions != [0]:
            return False
    elif not _computes(writer):
        return False
    read = [value for index in positions if (value := writer.inputs[index]) is not None]
    return all(value is source or _is_elementwise_result(value, target) for value in read)


def _is_elementwise_result(value: ir.Value, target: ir.Value) -> bool:
    node = value.producer()
    return node is not None and _computes(node) and _same_shape(value, target)


def _computes(node: ir.Node) -> bool:
    """Whether the outputs of *node* are new memory, written element by element.

    Runtimes reduce three inputs or more of Max, Min and Sum pair by pair *in the output*, over what is yet to be read.
    """
    if node.op_type not in _ELEMENTWISE or node.domain not in _STANDARD:
        return False
    return node.op_type not in ("Max", "Min", "Sum") or len(node.inputs) == 2


def _scans(scan: ir.Node, position: int, target: ir.Value) -> bool:
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
