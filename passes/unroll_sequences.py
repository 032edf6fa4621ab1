"""Sequences whose elements are known are tensors, and optionals that are known to be there are their value."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from .subgraphs import all_graphs
from .substitution import remove_if_unused, substitute
from .tape import CANONICAL_OPSET, Tape, Tensor


class UnrollSequences(ir.passes.InPlacePass):
    """Let what is read of a sequence of known length read the elements themselves.

    A sequence is known by SequenceConstruct, SequenceEmpty, a SplitToSequence into known parts, and SequenceInsert,
    SequenceErase, SequenceMap and Identity of known sequences, at constant positions. An optional is known by Optional
    and by what is no optional at all. What reads them, SequenceAt, SequenceLength, ConcatFromSequence,
    OptionalGetElement and OptionalHasElement, becomes tensors.

    Args:
        protected: names of values that must stay.

    Requires: constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: values do not change, and names of graph outputs stay.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any("Sequence" in node.op_type or "Optional" in node.op_type for node in model.graph.all_nodes()):
            return ir.passes.PassResult(model, False)
        outermost = Tape(model.graph, opset=CANONICAL_OPSET)
        modified = False
        for graph in list(all_graphs(model.graph)):
            tape = outermost if graph is model.graph else outermost.body(graph)
            unrolling = _Unrolling(tape, self._protected)
            for node in list(graph):
                modified |= unrolling.visit(node)
            graph.sort()  # new nodes were emitted at the end
        return ir.passes.PassResult(model, modified)


class _Unrolling:
    def __init__(self, op: Tape, protected: frozenset[str]) -> None:
        self.op = op
        self.protected = protected
        self.elements: dict[ir.Value, list[ir.Value]] = {}
        """The elements of the sequences that are known; an optional has one or none."""

    def visit(self, node: ir.Node) -> bool:
        if node.domain not in ("", "ai.onnx"):
            return False
        self.op.at(node.name or str(node.outputs[0].name), node.metadata_props)
        known = self.known_elements(node)
        if known is not None:
            self.elements[node.outputs[0]] = known
            return False
        replacement = self.read(node)
        if replacement is None:
            return False
        if node.outputs[0].name in self.protected:
            self.named_as(node.outputs[0], replacement)
        else:
            substitute(node.outputs[0], replacement, self.protected)
        return True

    def named_as(self, old: ir.Value, new: ir.Value) -> None:
        """Let a value that is *new* take the place of *old* under its name."""
        node = old.producer()
        assert node is not None
        stays = ir.Value(name=old.name, type=old.type, shape=old.shape, metadata_props=dict(old.metadata_props))
        identity = ir.node("Identity", [new], outputs=[stays], name=node.name, metadata_props=node.metadata_props)
        self.op.graph.insert_after(node, identity)
        old.replace_all_uses_with(stays, replace_graph_outputs=True)
        remove_if_unused(node)

    def known_elements(self, node: ir.Node) -> list[ir.Value] | None:
        """The elements of the sequence or optional that *node* gives."""
        inputs = list(node.inputs)
        if node.op_type == "SequenceEmpty":
            return []
        if node.op_type in ("SequenceConstruct", "Optional"):
            return [value for value in inputs if value is not None]
        if node.op_type == "SplitToSequence":
            return self.split(node)
        of_input = self.elements.get(inputs[0]) if inputs and inputs[0] is not None else None
        if of_input is None:
            return None
        if node.op_type == "Identity":
            return of_input
        if node.op_type == "SequenceMap":
            return self.map(node)
        if node.op_type not in ("SequenceInsert", "SequenceErase"):
            return None
        inserted = inputs[1] if node.op_type == "SequenceInsert" else None
        index = 2 if inserted is not None else 1
        position = self.integer(inputs[index]) if len(inputs) > index and inputs[index] is not None else None
        if position is None:
            if len(inputs) > index and inputs[index] is not None:
                return None
            position = len(of_input) if inserted is not None else len(of_input) - 1
        if not -len(of_input) <= position <= len(of_input) - (inserted is None):
            return None
        position += len(of_input) if position < 0 else 0
        if inserted is None:
            return of_input[:position] + of_input[position + 1 :]
        return [*of_input[:position], inserted, *of_input[position:]]

    def split(self, node: ir.Node) -> list[ir.Value] | None:
        (source, *parts) = node.inputs
        if source is None or source.shape is None:
            return None
        x = self.op.tensor(source)
        axis = node.attributes.get_int("axis", 0) % x.rank
        size = x.shape[axis]
        if not isinstance(size, int):
            return None
        if not parts or parts[0] is None:
            sizes = [1] * size
        else:
            given = self.integers(parts[0])
            if given is None:
                return None
            chunk = int(given) if given.ndim == 0 else 0
            sizes = [min(chunk, size - start) for start in range(0, size, chunk)] if chunk else given.tolist()
        if not sizes or sum(sizes) != size:
            return None
        pieces = self.op.emit_many("Split", x, self.op.ints(sizes), outputs=len(sizes), axis=axis)
        if (not parts or parts[0] is None) and node.attributes.get_int("keepdims", 1) == 0:
            pieces = tuple(piece.squeeze([axis]) for piece in pieces)
        return [piece.value for piece in pieces]

    def map(self, node: ir.Node) -> list[ir.Value] | None:
        """The elements of the first output of a SequenceMap; those of the others are noted."""
        columns = [self.elements.get(value, value) for value in node.inputs if value is not None]
        lengths = {len(column) for column in columns if isinstance(column, list)}
        if len(lengths) != 1 or any(isinstance(v, ir.Value) and _is_compound([v]) for v in columns):
            return None
        body: ir.Graph = node.attributes["body"].as_graph()
        rows = []
        for index in range(lengths.pop()):
            arguments = [column[index] if isinstance(column, list) else column for column in columns]
            rows.append(self.inline(body, arguments))
        for output, *elements in zip(node.outputs, *rows, strict=True):
            self.elements[output] = elements
        return self.elements[node.outputs[0]]

    def inline(self, body: ir.Graph, arguments: Sequence[ir.Value]) -> list[ir.Value]:
        copy = body.clone(allow_outer_scope_values=True)
        for parameter, argument in zip(copy.inputs, arguments, strict=True):
            parameter.replace_all_uses_with(argument, replace_graph_outputs=True)
        for node in copy.all_nodes():
            for value in node.outputs:
                value.shape = None  # what one name stands for in the body may have another size for each element
        results = list(copy.outputs)
        copy.outputs.clear()
        for node in list(copy):
            copy.remove(node)
            for value in node.outputs:
                value.name = self.op.fresh_name(str(value.name))
            node.name = self.op.fresh_name(node.name or node.op_type)
            self.op.graph.append(node)
        return results

    def read(self, node: ir.Node) -> ir.Value | None:
        """The tensor that takes the place of what *node* reads of a known sequence or optional."""
        source = node.inputs[0] if node.inputs else None
        elements = self.elements.get(source) if source is not None else None
        if node.op_type == "OptionalHasElement" and (source is None or elements is not None or _is_tensor(source)):
            there = source is not None and (elements is None or len(elements) > 0)
            return self.op.constant(there, ir.DataType.BOOL).value
        if node.op_type == "OptionalGetElement" and source is not None and _is_tensor(source):
            return source
        if elements is None:
            return None
        if node.op_type == "OptionalGetElement" and len(elements) == 1:
            return elements[0]
        if node.op_type == "SequenceLength":
            return self.op.constant(len(elements), ir.DataType.INT64).value
        if node.op_type == "SequenceAt":
            position = self.integer(node.inputs[1])
            inside = position is not None and -len(elements) <= position < len(elements)
            return elements[position] if position is not None and inside else None
        if node.op_type == "ConcatFromSequence" and elements:
            return self.concatenate(node, [self.op.tensor(element) for element in elements])
        return None

    def concatenate(self, node: ir.Node, tensors: list[Tensor]) -> ir.Value | None:
        axis = node.attributes["axis"].as_int()
        if node.attributes.get_int("new_axis", 0):
            tensors = [tensor.unsqueeze([axis]) for tensor in tensors]
        return self.op.Concat(*tensors, axis=axis).value

    def integers(self, value: ir.Value | None) -> np.ndarray | None:
        if value is None or value.const_value is None or value.is_graph_input() or value.name in self.protected:
            return None
        return value.const_value.numpy()

    def integer(self, value: ir.Value | None) -> int | None:
        array = self.integers(value)
        return None if array is None or array.size != 1 else int(array.reshape(())[()])


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType)


def _is_compound(values: Sequence[ir.Value | None]) -> bool:
    """Whether one of *values* is a sequence or an optional itself."""
    return any(value is not None and isinstance(value.type, ir.SequenceType | ir.OptionalType) for value in values)
