"""What no output needs is removed."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_ir as ir

from .subgraphs import all_graphs
from .substitution import remove_if_unused
from .unread_stacks import drop_unread_stacks


class EliminateDeadCode(ir.passes.InPlacePass):
    """Remove nodes and initializers that no graph output needs, and optional outputs and stacks that nobody reads.

    Args:
        protected: names of values that stay even if nothing reads them.

    Guarantees: graph inputs and outputs stay. Only optional outputs at the end of a node's list are dropped, and
    none of a BatchNormalization in training mode: how many it has decides what it computes (ONNX operators,
    BatchNormalization, "Output case").
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        opset = model.opset_imports.get("", 1)
        # Inner graphs come last, so that reversed, a node goes after everything that reads it from a subgraph.
        for graph in reversed(list(all_graphs(model.graph))):
            modified |= self._clean(graph, opset)
        return ir.passes.PassResult(model, modified)

    def _clean(self, graph: ir.Graph, opset: int) -> bool:
        modified = False
        for node in reversed(graph):
            if not self._protected.isdisjoint([output.name for output in node.outputs]):
                continue
            modified |= (
                remove_if_unused(node) or _drop_optional_outputs(node, opset) or self._drop_unread_stacks(node, opset)
            )
        for name, value in list(graph.initializers.items()):
            needed = value.uses() or value.is_graph_output() or value.is_graph_input()
            if not needed and name not in self._protected:
                del graph.initializers[name]
                modified = True
        return modified

    def _drop_unread_stacks(self, node: ir.Node, opset: int) -> bool:
        lean = drop_unread_stacks(node, self._protected)
        if lean is None:
            return False
        for graph in reversed(list(all_graphs(lean.attributes["body"].as_graph()))):
            self._clean(graph, opset)
        return True


def _drop_optional_outputs(node: ir.Node, opset: int) -> bool:
    """Shorten the outputs of *node* by optional ones at the end that nothing reads."""
    kept = len(node.outputs)
    while kept > 1 and not node.outputs[kept - 1].uses() and not node.outputs[kept - 1].is_graph_output():
        kept -= 1
    if kept == len(node.outputs) or node.domain != "" or node.op_type == "BatchNormalization":
        return False
    try:
        declared = onnx.defs.get_schema(node.op_type, opset).outputs
    except onnx.defs.SchemaError:
        return False
    option = onnx.defs.OpSchema.FormalParameterOption.Optional
    while kept < len(node.outputs) and not all(output.option == option for output in declared[kept:]):
        kept += 1
    if kept >= min(len(declared), len(node.outputs)):
        return False
    node.resize_outputs(kept)
    return True
