"""VJP rules that a model brings along: a function `Op.vjp` beside the operator `Op`."""

from __future__ import annotations

import onnx_ir as ir

from .errors import Error, InvalidModelError
from .fresh_names import FreshNames
from .infer_shapes import InferShapes
from .inline_functions import InlineFunctions
from .lift_constants import LiftConstants
from .registry import Cotangent, Primal, Registry, RuleFunction, already
from .tape import CANONICAL_OPSET, Tensor
from .upgrade_opset import UpgradeOpset

SUFFIX = ".vjp"


class CustomFunctions:
    """The pairs of functions `Op` and `Op.vjp` of a model, taken out of it until it is differentiated.

    `Op.vjp` has as inputs the inputs of `Op`, its outputs, and their cotangents, and as outputs the cotangents of the
    inputs, as many as `Op` has inputs; it gets those attributes of the node that it declares. Where `Op` has no
    function of its own, it is an operator of the runtime, and stays in the graph as it is.

    Raises InvalidModelError for an `Op.vjp` that does not fit its `Op`.
    """

    def __init__(self, model: ir.Model) -> None:
        self._functions: dict[ir.OperatorIdentifier, ir.Function] = {}
        pairs = [identifier for identifier in model.functions if identifier[1].endswith(SUFFIX)]
        if not pairs:
            return
        others = dict(model.functions)
        _infer_calls(model)
        for domain, name, overload in pairs:
            for each in ((domain, name, overload), (domain, name.removesuffix(SUFFIX), overload)):
                if each in others:
                    self._functions[each] = model.functions.pop(each)
        for identifier, function in self._functions.items():
            self._functions[identifier] = _canonical(function, model)
        _put_identities_behind_calls(model.graph, {(domain, name.removesuffix(SUFFIX)) for domain, name, _ in pairs})

    def __bool__(self) -> bool:
        return bool(self._functions)

    def rules(self, rules: Registry) -> Registry:
        """*rules*, and those of the pairs, unless *rules* has one for the operator."""
        extended = Registry(rules)
        known = {(domain, op_type) for domain, op_type, _ in rules}
        for domain, name, _ in self._functions:
            op_type = name.removesuffix(SUFFIX)
            if name.endswith(SUFFIX) and (domain, op_type) not in known:
                extended.vjp(op_type, domain=domain)(self._rule(domain, name))
        return extended

    def inline(self, model: ir.Model) -> None:
        """Replace the calls, of both, by the functions' bodies."""
        while any(node.op_identifier() in self._functions for node in model.graph.all_nodes()):
            model.functions.update({key: function.clone() for key, function in self._functions.items()})
            InlineFunctions()(model)
        LiftConstants()(model)
        InferShapes()(model)

    def _rule(self, domain: str, name: str) -> RuleFunction:
        function = next(f for (d, n, _), f in self._functions.items() if (d, n) == (domain, name))

        def vjp(n: Primal, *dys: Tensor | None) -> list[Cotangent]:
            cotangents = [n.op.zeros_like(y) if dy is None else dy for y, dy in zip(n.outputs, dys, strict=True)]
            given = [*n.inputs, *n.outputs, *cotangents]
            if len(given) != len(function.inputs) or len(n.inputs) != len(function.outputs):
                raise InvalidModelError(
                    f"The function {name} has {len(function.inputs)} inputs and {len(function.outputs)} outputs; for "
                    f"{n.node.op_type} node {n.node.name!r} it needs {len(given)} (the inputs, the outputs, and the "
                    f"outputs' cotangents) and {len(n.inputs)}"
                )
            attributes = {key: value for key, value in n.node.attributes.items() if key in function.attributes}
            results = n.op.emit_many(name, *given, outputs=len(n.inputs), domain=domain, **attributes)
            node = results[0].value.producer()
            assert node is not None
            # What they truly are is held against the inputs where the cotangents are taken.
            for result, primal, found in zip(results, n.inputs, self._results_of(node), strict=True):
                if primal is not None:
                    result.value.type = found.type or primal.value.type
                    result.value.shape = primal.value.shape if found.shape is None else found.shape
            # What is inlined is replaced; an Identity of it stays where it is.
            return [already(n.op.Identity(result)) for result in results]

        return vjp

    def _results_of(self, call: ir.Node) -> list[ir.Value]:
        """The outputs of *call* with the types and shapes that the function's body gives them, where that is known."""
        given = {v: ir.Value(name=v.name, type=v.type, shape=v.shape) for v in call.inputs if v is not None}
        inputs = [None if value is None else given[value] for value in call.inputs]
        twin = ir.node(call.op_type, inputs, call.attributes, domain=call.domain, num_outputs=len(call.outputs))
        graph = ir.Graph(
            [*given.values()], twin.outputs, nodes=[twin], opset_imports={"": CANONICAL_OPSET, call.domain: 1}
        )
        functions = [function.clone() for function in self._functions.values()]
        alone = ir.Model(graph, ir_version=10, functions=functions)
        InlineFunctions()(alone)
        LiftConstants()(alone)
        InferShapes()(alone)
        return list(graph.outputs)


def _put_identities_behind_calls(graph: ir.Graph, operators: set[tuple[str, str]]) -> None:
    """Let Identities have the names of what *operators* compute, which stay when the calls are inlined."""
    names = FreshNames(graph)
    for node in [node for node in graph if (node.domain, node.op_type) in operators]:
        for value in node.outputs:
            behind = ir.Value(name=value.name, type=value.type, shape=value.shape)
            value.name = names.fresh(f"{value.name}.called")
            identity = ir.Node("", "Identity", [value], outputs=[behind], name=names.fresh(f"{node.name}/Identity"))
            for reader, index in list(value.uses()):
                reader.replace_input_with(index, behind)
            identity.replace_input_with(0, value)
            graph.outputs[:] = [behind if each is value else each for each in graph.outputs]
            graph.insert_after(node, identity)


def _infer_calls(model: ir.Model) -> None:
    """Give the outputs of the calls the types and shapes that they have when everything is inlined."""
    inlined = model.clone()
    try:
        InlineFunctions()(inlined)
        InferShapes()(inlined)
    except Error:
        return  # what is wrong is said where it matters
    found = {value.name: value for node in inlined.graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            if node.op_identifier() in model.functions and value.name in found:
                value.type, value.shape = found[value.name].type, found[value.name].shape


def _canonical(function: ir.Function, model: ir.Model) -> ir.Function:
    """*function* in the canonical opset, without calls of functions that are no pairs."""
    graph = function.graph.clone()
    graph.opset_imports.setdefault("", model.opset_imports.get("", 1))
    alone = ir.Model(graph, ir_version=model.ir_version, functions=[each.clone() for each in model.functions.values()])
    InlineFunctions()(alone)
    UpgradeOpset()(alone)
    for name, value in list(graph.initializers.items()):
        del graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        constant = ir.node("Constant", [], {"value": tensor}, outputs=[ir.Value(name=name)])
        value.replace_all_uses_with(constant.outputs[0])
        first = next(iter(graph))
        graph.insert_before(first, constant)
    return ir.Function(
        function.domain, function.name, function.overload, graph=graph, attributes=list(function.attributes.values())
    )
