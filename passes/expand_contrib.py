"""ONNX Runtime's own operators, which its optimized models contain, and ONNX's optimizers become standard ones."""

from __future__ import annotations

from itertools import takewhile

import onnx_ir as ir

from .contrib import EXPANSIONS
from .contrib.expansion import MICROSOFT, TRAINING, Fused
from .substitution import remove_if_unused, subgraphs_of, substitute
from .tape import CANONICAL_OPSET, Tape, Tensor


class ExpandContrib(ir.passes.InPlacePass):
    """Write the operators of com.microsoft, those that ONNX Runtime adds to ai.onnx, and ONNX's optimizers in others.

    The nodes that take the place of one compute what ONNX Runtime's kernel computes, up to rounding. An operator or a
    form of it that is not covered, or whose ranks are not known, stays as it is.

    Requires: functions inlined, constants lifted, shapes inferred; the opset is the canonical one.
    Guarantees: the values keep their names, except where one is computed by nothing new (an input, a value that was
    there before). What comes behind an expanded node is shape-inferred.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(_key(node) in EXPANSIONS for node in model.graph.all_nodes()):
            return ir.passes.PassResult(model, False)
        modified = _expand_all(Tape(model.graph, opset=CANONICAL_OPSET))
        left = {node.domain for node in model.graph.all_nodes()}
        for domain in {MICROSOFT, TRAINING} - left:
            model.opset_imports.pop(domain, None)
        return ir.passes.PassResult(model, modified)


def _expand_all(tape: Tape) -> bool:
    modified = False
    for node in list(tape.graph):
        for attribute in node.attributes.values():
            for subgraph in subgraphs_of(attribute):
                modified |= _expand_all(tape.body(subgraph))
        if _expand(node, tape):
            modified = True
        elif any(value.shape is None for value in node.outputs):
            tape.inference.infer(node)  # it may read what was expanded before
    if modified:
        tape.graph.sort()  # new nodes were emitted at the end
    return modified


def _expand(node: ir.Node, tape: Tape) -> bool:
    expansion = EXPANSIONS.get(_key(node))
    if expansion is None or any(value is not None and value.shape is None for value in node.inputs):
        return False
    last = tape.graph[-1]
    tape.at(node.name or str(node.outputs[0].name), node.metadata_props)
    result = expansion(Fused(node, tape))
    if result is None:
        return False
    emitted = {value for new in takewhile(lambda new: new is not last, reversed(tape.graph)) for value in new.outputs}
    results = [result] if isinstance(result, Tensor) else result
    for output, tensor in zip(list(node.outputs), results, strict=False):
        if tensor is not None and (output.uses() or output.is_graph_output()):
            name = output.name
            substitute(output, tensor.value)
            if tensor.value in emitted:
                output.name, tensor.value.name = None, name
                emitted.remove(tensor.value)
    if node.graph is not None:
        remove_if_unused(node)
    return True


def _key(node: ir.Node) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type
