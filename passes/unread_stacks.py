"""What the iterations of a loop stack up for nobody."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from .subgraphs import Iteration


def drop_unread_stacks(node: ir.Node, protected: Collection[str] = ()) -> ir.Node | None:
    """Let a Scan or Loop give only those of its stacked outputs that something reads, or whose name is *protected*.

    What the body computes for the others is left in it, for dead code.

    Returns:
        the node that took its place, None if every stack is read.
    """
    if node.domain != "" or node.op_type not in ("Scan", "Loop"):
        return None
    iteration = Iteration.of(node)
    unread = {
        stack.index
        for stack in iteration.given
        if not stack.stacked.uses() and not stack.stacked.is_graph_output() and stack.stacked.name not in protected
    }
    graph = node.graph
    if not unread or len(unread) == len(node.outputs) or not isinstance(graph, ir.Graph):
        return None
    kept = [index for index in range(len(node.outputs)) if index not in unread]
    states = len(iteration.states)
    attributes = dict(node.attributes)
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in attributes:
            values = attributes[name].as_ints()
            attributes[name] = ir.AttrInt64s(name, [values[index - states] for index in kept if index >= states])
            if len(kept) == states:
                del attributes[name]
    skipped = len(iteration.body.outputs) - len(node.outputs)
    iteration.body.outputs[:] = [
        value for index, value in enumerate(iteration.body.outputs) if index - skipped not in unread
    ]
    lean = ir.Node(
        node.domain,
        node.op_type,
        node.inputs,
        attributes.values(),
        num_outputs=len(kept),
        name=node.name,
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, lean)
    for index, new in zip(kept, lean.outputs, strict=True):
        old = node.outputs[index]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        new.metadata_props.update(old.metadata_props)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return lean
