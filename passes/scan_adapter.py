"""How Scan changed: in opset 8 it ran over a whole batch, in opset 9 over one sequence (ONNX spec, "Changelog")."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from .node_editor import NodeEditor


def scan_9(edit: NodeEditor) -> None:
    """A Scan over the samples of the batch, which keeps nothing from one to the next, around one over the sequence."""
    node = edit.node
    if edit.input(0) is not None:
        raise edit.refuse("has sequence lengths, which opset 9 took away; export the model again")
    body = node.attributes["body"].as_graph()
    outer = [value for value in node.inputs[1:] if value is not None]
    samples = [_without_batch(edit.fresh(f"sample_{index}"), value) for index, value in enumerate(outer)]
    inner = ir.Node(
        "",
        "Scan",
        samples,
        [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", int(edit.take("num_scan_inputs")))],
        outputs=[_without_batch(edit.fresh(f"result_{index}"), value) for index, value in enumerate(node.outputs)],
        name=edit.fresh("sequence"),
        metadata_props=dict(node.metadata_props),
    )
    directions = edit.take("directions")
    if directions is not None:
        inner.attributes["scan_input_directions"] = ir.AttrInt64s("scan_input_directions", directions)
    del node.attributes["body"]
    whole = ir.Graph(samples, inner.outputs, nodes=[inner], name=edit.fresh("batch"))
    node.attributes["body"] = ir.AttrGraph("body", whole)
    edit.set("num_scan_inputs", len(outer))
    _take_inputs(node, outer)


def _without_batch(name: str, batch: ir.Value) -> ir.Value:
    shape = None if batch.shape is None else ir.Shape(batch.shape[1:])
    return ir.Value(name=name, type=batch.type, shape=shape)


def _take_inputs(node: ir.Node, values: Iterable[ir.Value]) -> None:
    for index, value in enumerate(values):
        node.replace_input_with(index, value)
    node.resize_inputs(len(node.inputs) - 1)
