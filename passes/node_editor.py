"""Rewriting one node in place, with new constants and nodes around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .attributes import make_attribute, make_attributes
from .errors import UnsupportedError, describe
from .fresh_names import FreshNames


class NodeEditor:
    """Rewrites *node*, which keeps its name. What is added takes fresh *names* and the metadata of the node."""

    def __init__(self, node: ir.Node, names: FreshNames) -> None:
        assert isinstance(node.graph, ir.Graph), "functions are inlined before"
        self.node = node
        self._graph = node.graph
        self._names = names

    def input(self, index: int) -> ir.Value | None:
        """The input at *index*, or None where it is omitted."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def required(self, index: int) -> ir.Value:
        """The input at *index*, which the operator cannot do without."""
        value = self.input(index)
        if value is None:
            raise self.refuse(f"lacks input {index}")
        return value

    def set_input(self, index: int, value: ir.Value | None) -> None:
        """Make *value* the input at *index*, with omitted inputs before it where the node has fewer."""
        if len(self.node.inputs) <= index:
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of the attribute *name*."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def take(self, name: str, default: Any = None) -> Any:
        """The value of the attribute *name*, which the node has no more."""
        value = self.attribute(name, default)
        self.node.attributes.pop(name, None)
        return value

    def set(self, name: str, value: Any) -> None:
        """Give the node the attribute *name*."""
        self.node.attributes[name] = make_attribute(name, value)

    def constant(self, array: Any, dtype: ir.DataType, what: str) -> ir.Value:
        """A new initializer of the node's graph, named after the node and *what* it is."""
        name = self.fresh(what)
        values = np.asarray(array, dtype=dtype.numpy())
        tensor = ir.tensor(values, dtype=dtype, name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(values.shape), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def number(self, number: float, what: str) -> ir.Value:
        """A scalar of the element type of the first input, whether or not that type is known."""
        source = self.required(0)
        if source.dtype is not None:
            return self.constant(number, source.dtype, what)
        return self.emit("CastLike", [self.constant(number, ir.DataType.FLOAT, f"{what}_float"), source], what)

    def emit(self, op_type: str, inputs: Sequence[ir.Value | None], what: str, **attributes: Any) -> ir.Value:
        """The output of a new node in front of the node."""
        new = self._node(op_type, inputs, self.fresh(what), attributes)
        self._graph.insert_before(self.node, new)
        new.outputs[0].name = new.name
        return new.outputs[0]

    def emit_behind(
        self, index: int, op_type: str, others: Sequence[ir.Value], what: str, **attributes: Any
    ) -> ir.Value:
        """Let a new node behind the node make of its output at *index*, and of *others*, what goes by its name.

        Returns the output itself, which is renamed after *what* it is now; its shape is open.
        """
        inner = self.node.outputs[index]
        outer = ir.Value(name=inner.name, type=inner.type, shape=inner.shape, metadata_props=dict(inner.metadata_props))
        name = self.fresh(op_type.lower())
        if not self.node.name:  # it went by the name of the value that it computes no more
            self.node.name = self.fresh(self.node.op_type.lower())
        inner.replace_all_uses_with(outer, replace_graph_outputs=True)
        inner.name, inner.shape = self._names.fresh(f"{inner.name}/{what}"), None
        new = self._node(op_type, [inner, *others], name, attributes, outer)
        self._graph.insert_after(self.node, new)
        return inner

    def refuse(self, why: str) -> UnsupportedError:
        """The error that this node has no equivalent; *why* continues a sentence that starts with the node."""
        return UnsupportedError(f"{describe(self.node)} {why}")

    def fresh(self, what: str) -> str:
        """A name that is not taken, after the node and *what* it is for."""
        return self._names.fresh(f"{self.node.name or self.node.outputs[0].name}/{what}")

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: dict[str, Any],
        output: ir.Value | None = None,
    ) -> ir.Node:
        return ir.Node(
            "",
            op_type,
            inputs,
            make_attributes(attributes),
            outputs=[output if output is not None else ir.Value()],
            name=name,
            metadata_props=dict(self.node.metadata_props),
        )
