"""Shape inference of sequences: the shape of a sequence is what the shapes of its elements have in common.

The inference library knows the types of sequences only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext

from .shape_functions import registry
from .subgraphs import Iteration

__all__ = ["registry"]

ElementShape = Callable[[ir.Node], ir.Shape | None]


def extend(op_type: str, shape: ElementShape) -> None:
    """Let the inference of *op_type* give its output a shape, too."""
    infer_type = registry.get("", op_type, version=11)
    assert infer_type is not None

    @registry.register("", op_type, since_version=11)
    def infer(context: ShapeInferenceContext, node: ir.Node) -> None:
        output = node.outputs[0]
        declared = output.shape
        infer_type(context, node)
        if output.shape is None:
            output.shape = shape(node) or declared


def common(*shapes: ir.Shape | None) -> ir.Shape | None:
    """The sizes that all *shapes* have; None where they differ, and for the whole where a rank differs."""
    ranks = {None if shape is None else len(shape) for shape in shapes}
    if len(ranks) != 1 or ranks == {None}:
        return None
    dims = [set(sizes) for sizes in zip(*(shape for shape in shapes if shape is not None), strict=True)]
    return ir.Shape(sizes.pop() if len(sizes) == 1 else None for sizes in dims)


def of_input(node: ir.Node) -> ir.Shape | None:
    return None if node.inputs[0] is None else node.inputs[0].shape


def of_all_inputs(node: ir.Node) -> ir.Shape | None:
    return common(*(None if value is None else value.shape for value in node.inputs))


def after_insertion(node: ir.Node) -> ir.Shape | None:
    sequence, tensor = node.inputs[:2]
    assert sequence is not None
    assert tensor is not None
    source = sequence.producer()
    if source is not None and source.op_type == "SequenceEmpty":
        return tensor.shape
    return common(sequence.shape, tensor.shape)


def of_parts(node: ir.Node) -> ir.Shape | None:
    shape = of_input(node)
    if shape is None:
        return None
    axis = node.attributes.get_int("axis", 0) % len(shape)
    whole = len(node.inputs) < 2 or node.inputs[1] is None
    if whole and node.attributes.get_int("keepdims", 1) == 0:
        return ir.Shape([*shape[:axis], *shape[axis + 1 :]])
    return ir.Shape([*shape[:axis], 1 if whole else None, *shape[axis + 1 :]])


def of_concatenation(node: ir.Node) -> ir.Shape | None:
    shape = of_input(node)
    if shape is None:
        return None
    new_axis = node.attributes.get_int("new_axis", 0)
    axis = node.attributes["axis"].as_int() % (len(shape) + new_axis)
    return ir.Shape([*shape[:axis], None, *shape[axis + (1 - new_axis) :]])


infer_types_of_map = registry.get("", "SequenceMap", version=17)


@registry.register("", "SequenceMap", since_version=17)
def infer_sequence_map(context: ShapeInferenceContext, node: ir.Node) -> None:
    """The sizes that are known in the body are those of all elements."""
    assert infer_types_of_map is not None
    infer_types_of_map(context, node)
    for output, result in zip(node.outputs, node.attributes["body"].as_graph().outputs, strict=True):
        if result.shape is not None:
            output.shape = _in_all_iterations(result.shape)


def describe_lists(nodes: Iterable[ir.Node]) -> bool:
    """Give the sequences that Loops start empty, and append one tensor to each time, its shape; whether any got one."""
    described = False
    for node in nodes:
        if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
            continue
        for state in Iteration.of(node).states:
            insert, start = state.at_end.producer(), state.initial.producer()
            if start is None or start.op_type != "SequenceEmpty" or insert is None or state.final.shape is not None:
                continue
            if insert.op_type == "SequenceInsert" and insert.inputs[0] is state.at_start:
                element = insert.inputs[1]
                if element is not None and element.shape is not None:
                    shape = _in_all_iterations(element.shape)
                    state.at_start.shape = state.at_end.shape = state.final.shape = shape
                    described = True
    return described


def _in_all_iterations(shape: ir.Shape) -> ir.Shape:
    """What is known of the shape of a value of a body whichever iteration it is of."""
    return ir.Shape(dim if isinstance(dim, int) else None for dim in shape)


extend("SequenceConstruct", of_all_inputs)
extend("SequenceInsert", after_insertion)
extend("SequenceErase", of_input)
extend("SequenceAt", of_input)
extend("SplitToSequence", of_parts)
extend("ConcatFromSequence", of_concatenation)
