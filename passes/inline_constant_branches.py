"""A branch that is always taken is no branch: its nodes take the place of the If."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

import onnx_ir as ir

from .fresh_names import FreshNames, values_in
from .substitution import remove_if_unused


class InlineConstantBranches(ir.passes.InPlacePass):
    """Replace every If whose condition is a constant by the nodes of the branch that is taken.

    Ifs in subgraphs, and Ifs inside a branch that is taken, are replaced as well. The values that the If gave keep
    their names; inner values and nodes keep theirs too, unless another one in the model has the same name.
    Initializers of the branch move to the graph of the If. What only the other branch read is dead afterwards.

    Args:
        protected: names of initializers that count as no constants.

    Requires: functions are inlined; constants are initializers (LiftConstants, FoldConstants).
    Guarantees: graph inputs and outputs keep their names, and the nodes stay in a valid order.
    """

    def __init__(self, protected: Collection[str] = ()) -> None:
        self._protected = frozenset(protected)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        names = _Names(model.graph)
        conditionals = [node for node in model.graph.all_nodes() if node.op_type == "If" and node.domain == ""]
        modified = False
        for node in conditionals:
            condition = self._condition(node)
            if condition is None:
                continue
            branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
            taken, dropped = branches if condition else reversed(branches)
            names.drop(dropped)
            names.separate(taken)
            _inline(node, taken)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _condition(self, node: ir.Node) -> bool | None:
        """The condition of *node* if it is constant; exporters also give it as a tensor of shape [1]."""
        value = node.inputs[0]
        if value is None or value.const_value is None or value.is_graph_input() or value.name in self._protected:
            return None
        return bool(value.const_value.numpy().item()) if value.const_value.size == 1 else None


class _Names:
    """How often each name occurs: branches may share names as long as neither is inlined."""

    def __init__(self, graph: ir.Graph) -> None:
        self._fresh = FreshNames(graph)
        self._values = Counter(value.name for value in values_in(graph))
        self._nodes = Counter(node.name for node in graph.all_nodes())

    def drop(self, branch: ir.Graph) -> None:
        """Forget the names in a branch that goes away."""
        self._values.subtract(value.name for value in values_in(branch))
        self._nodes.subtract(node.name for node in branch.all_nodes())

    def separate(self, branch: ir.Graph) -> None:
        """Rename what is about to leave *branch* where its name occurs elsewhere."""
        for node in branch:
            if node.name and self._nodes[node.name] > 1:
                self._nodes[node.name] -= 1
                node.name = self._fresh.fresh(node.name)
        for value in list(_own_values(branch)):
            if value.name and self._values[value.name] > 1:
                self._values[value.name] -= 1
                value.name = self._fresh.fresh(value.name)


def _own_values(branch: ir.Graph) -> Iterator[ir.Value]:
    yield from branch.initializers.values()
    yield from (value for node in branch for value in node.outputs)


def _inline(node: ir.Node, branch: ir.Graph) -> None:
    """Put the content of *branch* in the place of *node*."""
    graph = node.graph
    assert graph is not None
    results = list(branch.outputs)
    branch.outputs.clear()
    for name, initializer in list(branch.initializers.items()):
        del branch.initializers[name]
        graph.register_initializer(initializer)
    inner = list(branch)
    branch.remove(inner)
    graph.insert_before(node, inner)
    renamable = {value for each in inner for value in each.outputs}
    for output, result in zip(node.outputs, results, strict=True):
        if result not in renamable:
            result = _copy_before(node, result)
        renamable.discard(result)
        result.shape = result.shape if result.shape is not None else output.shape
        result.type = result.type if result.type is not None else output.type
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        if output.name:
            result.name, output.name = output.name, None
    remove_if_unused(node)


def _copy_before(node: ir.Node, value: ir.Value) -> ir.Value:
    """An Identity for a result that is an initializer, a value of an outer graph, or a result already."""
    copy = ir.Value(type=value.type, shape=value.shape)
    name, metadata = node.name, dict(node.metadata_props)
    identity = ir.Node("", "Identity", [value], outputs=[copy], name=name, metadata_props=metadata)
    assert node.graph is not None
    node.graph.insert_before(node, identity)
    return copy
