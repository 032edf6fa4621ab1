"""Relu behind MaxPool, where there are fewer elements."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from .registry import Registry
from .rewriting import RewritePass, Rewriter, RewriteRule, produced_by, read_once
from .rules import has_builtin_rule


class PoolBeforeRelu(RewritePass):
    """Write MaxPool(Relu(x)) as Relu(MaxPool(x)): Relu and its mask are computed for a fraction of the elements, and x
    need not be kept.

    Gradients are the same: where a window's largest element is not positive they are zero, and positive ones are chosen
    alike.

    Args:
        rules: the VJP rules. Operators that have other rules than the built-in ones stay.
        protected: names of values that must stay.

    Requires: the canonical form; the graph is not differentiated. Guarantees: no value changes.
    """

    def __init__(self, rules: Registry, protected: Collection[str] = ()) -> None:
        super().__init__(protected)
        self._rules = rules

    def rules(self) -> Mapping[str, RewriteRule]:
        return {"MaxPool": self._swap}

    def _swap(self, rewriter: Rewriter, node: ir.Node) -> ir.Value | None:
        activated = node.inputs[0]
        relu = produced_by(activated, "Relu")
        if activated is None or relu is None or not read_once(activated) or activated.name in rewriter.protected:
            return None
        if not all(has_builtin_rule(self._rules, each) for each in (relu, node)):
            return None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        pooled = rewriter.emit("MaxPool", relu.inputs[0], **attributes)
        result = rewriter.emit("Relu", pooled)
        for value, was in ((pooled, node), (result, relu)):
            producer = value.producer()
            assert producer is not None
            producer.name = was.name
        return result
