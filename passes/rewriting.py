"""Local rewriting: each node of one operator is offered to a rule, which may put another value in its place."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from .attributes import make_attributes
from .element_types import FLOATS
from .subgraphs import all_graphs
from .substitution import can_take_name, remove_if_unused, substitute
from .tape import Scalar, Tape

LARGEST_READ_CONSTANT = 65536
"""The most elements of an integer or bool constant that a rule looks into."""


class Rewriter:
    """Applies rewrite rules to all graphs of a model until none fits any more.

    A rule sees a node of its operator and gives the value that takes the place of the node's first output, or
    None. It may emit nodes, which come before that node, carry its metadata and are shape-inferred. What nothing
    reads afterwards is removed.

    Values named in *protected* stay, and their initializers count as no constants.
    """

    def __init__(self, model: ir.Model, protected: Collection[str] = ()) -> None:
        self.protected = frozenset(protected)
        self._tape = Tape(model.graph, opset=model.opset_imports[""])
        # Kept, since to walk through a large graph takes longer than to look at the nodes whose operators have rules.
        self._nodes = [(node.op_type, node) for graph in all_graphs(model.graph) for node in graph if node.domain == ""]
        self._node: ir.Node | None = None
        self._in_its_place: list[ir.Node] = []

    def run(self, rules: Mapping[str, RewriteRule]) -> bool:
        """Apply *rules*, given by operator; whether the model changed. Between two runs nothing else may change it."""
        modified = False
        while self._sweep(rules):
            modified = True
        return modified

    def _sweep(self, rules: Mapping[str, RewriteRule]) -> bool:
        modified = False
        placed: dict[ir.Node, list[ir.Node]] = {}
        for op_type, node in self._nodes:
            if op_type in rules and node.graph is not None:
                modified |= self._rewrite(node, rules[op_type])
                if len(self._in_its_place) > 1:
                    placed[node] = self._in_its_place
        if modified or placed:
            nodes = [each for _, node in self._nodes for each in placed.get(node, (node,)) if each.graph is not None]
            self._nodes = [(node.op_type, node) for node in nodes]
        return modified

    def _rewrite(self, node: ir.Node, rule: RewriteRule) -> bool:
        """Offer *node* to *rule*; whether another value took the place of its output."""
        output, self._node, self._in_its_place = node.outputs[0], node, []
        replacement = None if output.name in self.protected else rule(self, node)
        self._in_its_place.append(node)
        if replacement is None or not self._can_replace(node, replacement):
            return False
        inputs = list(node.inputs)
        identity = substitute(output, replacement, self.protected)
        if identity is not None:
            self._in_its_place.append(identity)
        self._remove_unused(inputs)
        return True

    def _can_replace(self, node: ir.Node, replacement: ir.Value) -> bool:
        output = node.outputs[0]
        if any(other.uses() or other.is_graph_output() for other in node.outputs[1:]):
            return False
        kept_as_identity = output.is_graph_output() and not can_take_name(replacement, output, self.protected)
        return not (node.op_type == "Identity" and kept_as_identity)

    def _remove_unused(self, values: Sequence[ir.Value | None]) -> None:
        for value in values:
            node = value.producer() if value is not None else None
            if node is None or node.graph is None or any(v.name in self.protected for v in node.outputs):
                continue
            inputs = list(node.inputs)
            if remove_if_unused(node):
                self._remove_unused(inputs)

    def emit(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Insert a node with one output before the node that is being rewritten."""
        at = self._node
        assert at is not None
        assert at.graph is not None
        stem = at.name or str(at.outputs[0].name)
        stem = stem.removesuffix(at.op_type).removesuffix("/")
        name = self._tape.fresh_name(f"{stem}/{op_type}" if stem else op_type)
        node = ir.Node(
            "",
            op_type,
            list(inputs),
            make_attributes(attributes),
            outputs=[ir.Value(name=name)],
            name=name,
            metadata_props=dict(at.metadata_props),
        )
        at.graph.insert_before(at, node)
        self._in_its_place.append(node)
        self._tape.inference.infer(node)
        return node.outputs[0]

    def ints(self, values: Sequence[int]) -> ir.Value:
        """A 1-D int64 constant."""
        return self._tape.ints(values).value

    def full(self, number: Scalar, like: ir.Value) -> ir.Value:
        """A scalar constant of the dtype of *like*."""
        assert like.dtype is not None
        return self._tape.constant(number, like.dtype).value

    def constant(self, value: ir.Value | None) -> np.ndarray | None:
        """The array of a constant: a one-element float, or some integers; None for a weight or a computed value."""
        if value is None or value.const_value is None:
            return None
        tensor = value.const_value
        if tensor.size > (1 if tensor.dtype in FLOATS else LARGEST_READ_CONSTANT):
            return None
        if value.is_graph_input() or value.name in self.protected:
            return None
        return tensor.numpy() if tensor.dtype != ir.DataType.STRING else None

    def scalar(self, value: ir.Value | None) -> Scalar | None:
        """The number in a constant of one element, of any rank."""
        array = self.constant(value)
        if array is None or array.size != 1:
            return None
        number = array.reshape(())[()]
        return bool(number) if array.dtype == bool else int(number) if array.dtype.kind in "iu" else float(number)


RewriteRule = Callable[[Rewriter, ir.Node], ir.Value | None]


def first_of(*rules: RewriteRule) -> RewriteRule:
    """The first of *rules* that fits."""

    def rule(rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
        for each in rules:
            value = each(rewriter, node)
            if value is not None:
                return value
        return None

    return rule


class RewritePass(ir.passes.InPlacePass):
    """A pass that applies one table of rules until none fits any more.

    Args:
        protected: names of values that must stay, and of parameters, which are no constants.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = protected

    @abc.abstractmethod
    def rules(self) -> Mapping[str, RewriteRule]:
        """The rules by the operator of the nodes that they are offered."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return ir.passes.PassResult(model, Rewriter(model, self._protected).run(self.rules()))


def produced_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard node of one of *op_types* whose first output is *value*, if that is what computes it."""
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or node.op_type not in op_types or node.outputs[0] is not value:
        return None
    return node


def read_once(value: ir.Value) -> bool:
    """Whether one input of one node is all that reads *value*."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def have_same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether the shapes are known to be equal: static sizes equal, symbolic ones of the same name."""
    if a is None or b is None or a.shape is None or b.shape is None:
        return False
    unknown = any(not isinstance(dim, int) and dim.value is None for dim in a.shape)
    return a.shape == b.shape and not unknown


def static_shape(value: ir.Value) -> list[int] | None:
    """The sizes if all are known."""
    if value.shape is None:
        return None
    sizes = [dim for dim in value.shape if isinstance(dim, int)]
    return sizes if len(sizes) == len(value.shape) else None


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """The integer attribute *name* of *node*."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
