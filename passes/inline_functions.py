"""Calls of the model's own functions are replaced by the functions' bodies."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, NameFixPass

from .errors import InvalidModelError, UnsupportedError

_CALL = "onnxgrad.call"


class InlineFunctions(ir.passes.InPlacePass):
    """Inline every model-local function, also those that call others.

    Guarantees: the model has no functions left. The nodes of a body are named after the node that called it
    (`encoder/gelu/Mul`) and carry its metadata; names of graph inputs, outputs and initializers stay, and every
    name is unique.

    Raises:
        InvalidModelError: functions call each other in a circle, or a call does not fit its function.
        UnsupportedError: a function was written for an opset in which one of its operators means something else
            than in the model's own.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not model.functions:
            return ir.passes.PassResult(model, modified=False)
        for function in model.functions.values():
            _align_opsets(function, model)
            _separate_outputs(function)
        for callees in _callees_first(model):
            _inline(model, callees)
        model.functions.clear()
        NameFixPass(_Names()).call(model)
        return ir.passes.PassResult(model, modified=True)


class _Names:
    """How `NameFixPass` calls what has no name, or one that is taken."""

    def generate_node_name(self, node: ir.Node) -> str:
        return node.name or node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        return value.name or "value"


def _callees_first(model: ir.Model) -> list[set[ir.OperatorIdentifier]]:
    """The functions in groups, each of which calls only functions of earlier groups."""
    calls = {
        identifier: {node.op_identifier() for node in function.all_nodes()} & model.functions.keys()
        for identifier, function in model.functions.items()
    }
    sorter = TopologicalSorter(calls)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " → ".join(name for _, name, _ in error.args[1])
        raise InvalidModelError(f"The model's functions call each other in a circle: {circle}") from None
    groups = []
    while sorter.is_active():
        groups.append(set(sorter.get_ready()))
        sorter.done(*groups[-1])
    return groups


def _inline(model: ir.Model, callees: set[ir.OperatorIdentifier]) -> None:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            if node.op_identifier() in callees:
                node.metadata_props[_CALL] = node.name or node.op_type
                _complete_outputs(node, model.functions[node.op_identifier()])
    try:
        InlinePass(criteria=lambda function: function.identifier() in callees).call(model)
    except Exception as error:
        names = ", ".join(sorted(name for _, name, _ in callees))
        raise InvalidModelError(f"A call of one of the functions {names} does not fit it: {error}") from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            caller = node.metadata_props.pop(_CALL, None)
            if caller is not None:
                node.name = f"{caller}/{node.name or node.op_type}"


def _complete_outputs(node: ir.Node, function: ir.Function) -> None:
    """Give the call the outputs that it leaves out, as the inliner expects."""
    if len(node.outputs) > len(function.outputs):
        raise InvalidModelError(
            f"Node {node.name!r} takes {len(node.outputs)} outputs of function {function.name}, "
            f"which has {len(function.outputs)}"
        )
    node.resize_outputs(len(function.outputs))
    for output in node.outputs:
        output.name = output.name or None  # an omitted output keeps its name from the body


def _separate_outputs(function: ir.Function) -> None:
    """Let a node of its own compute each output, so that no output is an input or another output."""
    taken = set(function.inputs)
    for index, output in enumerate(function.outputs):
        if output in taken:
            copy = ir.Node("", "Identity", [output], outputs=[ir.Value(type=output.type, shape=output.shape)])
            function.append(copy)
            function.outputs[index] = copy.outputs[0]
        taken.add(function.outputs[index])


def _align_opsets(function: ir.Function, model: ir.Model) -> None:
    """Set the opsets of *function* to those of *model* if its operators mean the same in both."""
    for domain, version in function.opset_imports.items():
        wanted = model.opset_imports.setdefault(domain, version)
        if version == wanted:
            continue
        for node in function.all_nodes():
            if node.domain == domain and _since(node, version) != _since(node, wanted):
                raise UnsupportedError(
                    f"Function {function.name} is written for opset {version} of the domain {domain or 'ai.onnx'!r} "
                    f"and the model for {wanted}, between which {node.op_type} changed; convert the model to one "
                    "opset first, for instance with onnx.inliner.inline_local_functions(model, True)"
                )
        function.opset_imports[domain] = wanted


def _since(node: ir.Node, version: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(node.op_type, version, node.domain).since_version)
    except onnx.defs.SchemaError:
        return None
