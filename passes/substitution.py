"""One value in the place of another, with the names of graph outputs kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir


def substitute(old: ir.Value, new: ir.Value, protected: Collection[str] = ()) -> ir.Node | None:
    """Let every reader of *old* read *new*, and remove the node of *old* when nothing else needs it.

    The two hold the same array whenever the graph runs, and *new* is computed before every reader of *old*.
    Where *old* is a graph output, *new* takes over its name; if *new* has to keep a name of its own (it is a
    graph input, an initializer, another output, *protected*, or of an outer graph), an Identity gives the output.

    Returns:
        that Identity, which follows the node of *old*, if there is one.
    """
    node = old.producer()
    assert node is not None
    assert node.graph is not None
    graph, identity = node.graph, None
    if new.shape is None:
        new.shape = old.shape
    if new.type is None:
        new.type = old.type
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
    elif can_take_name(new, old, protected):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, None
    else:
        output = ir.Value(name=old.name, type=old.type, shape=old.shape, metadata_props=dict(old.metadata_props))
        identity = ir.Node(
            "", "Identity", [new], outputs=[output], name=node.name, metadata_props=dict(node.metadata_props)
        )
        graph.insert_after(node, identity)
        graph.outputs[:] = [output if value is old else value for value in graph.outputs]
        old.replace_all_uses_with(new)
    remove_if_unused(node)
    return identity


def move_before(node: ir.Node, count: int) -> None:
    """Move what a tape has appended to the graph of *node*, all behind its first *count* nodes, before *node*."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(node, _taken_off(graph, count))


def move_after(node: ir.Node, count: int) -> None:
    """As `move_before`, but to where *node* comes first."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_after(node, _taken_off(graph, count))


def put_appended(node: ir.Node, count: int, new: ir.Value, old: ir.Value) -> None:
    """Put what a tape has appended before *node* (`move_before`), and its *new* in the place of *old*, name and all."""
    name = str(old.name)
    move_before(node, count)
    substitute(old, new)
    new.name, old.name = name, None


def can_take_name(new: ir.Value, old: ir.Value, protected: Collection[str] = ()) -> bool:
    """Whether *new* may be renamed to be the graph output *old*."""
    return (
        new.producer() is not None
        and new.graph is old.graph
        and not new.is_graph_output()
        and new.name not in protected
    )


def remove_if_unused(node: ir.Node) -> bool:
    """Remove *node* from its graph if nothing reads its outputs; with it go the nodes of its subgraphs."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs):
        return False
    for attribute in node.attributes.values():
        for subgraph in subgraphs_of(attribute):
            for inner in list(subgraph.all_nodes()):
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
                assert inner.graph is not None
                inner.graph.remove(inner)
    assert node.graph is not None
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
    # `Graph.remove` looks at all outputs of the graph each time, which makes a pass quadratic.
    nodes = node.graph._nodes
    node.graph = None
    nodes.remove(node)
    return True


def subgraphs_of(attribute: ir.Attr) -> list[ir.Graph]:
    """The graphs that *attribute* holds."""
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    if attribute.type == ir.AttributeType.GRAPHS:
        return list(attribute.as_graphs())
    return []


def _taken_off(graph: ir.Graph, count: int) -> Sequence[ir.Node]:
    """The nodes behind the first *count*, which are no longer in the graph."""
    appended = graph[count:]
    graph.remove(appended)
    return appended
