"""Operators that the runtime lacks become the functions that the standard defines them by."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from .errors import UnsupportedError, describe
from .infer_shapes import InferShapes
from .inline_functions import InlineFunctions
from .lift_constants import LiftConstants
from .lower_opset import lowest_opset
from .tape import CANONICAL_OPSET

PREVIEW = "ai.onnx.preview"
"""The domain of operators that the standard is trying out."""

_DOMAIN = "onnxgrad.newer"
_WINDOW = ("left_window_size", "right_window_size")
"""Attributes of Attention that ONNX Runtime 1.31 does not know, though they are of opset 25."""


class ExpandNewerOperators(ir.passes.InPlacePass):
    """Inline the function bodies of operators that ONNX Runtime has no kernel for.

    These are the operators of ai.onnx, or forms and types of them, that came after the canonical opset, those of
    ai.onnx.preview, and Attention within a window. Those without a body are left to UpgradeOpset.

    Requires: functions are inlined.

    Raises UnsupportedError where a body depends on sizes that are unknown.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.setdefault("", CANONICAL_OPSET)
        modified = False
        # The bodies of some depend on the types of the inputs, which may come out of others.
        while self._expand(model, opset):
            model.opset_imports[_DOMAIN] = 1
            InlineFunctions()(model)
            LiftConstants()(model)
            del model.opset_imports[_DOMAIN]
            modified = True
        return ir.passes.PassResult(model, modified)

    def _expand(self, model: ir.Model, opset: int) -> bool:
        nodes = [node for node in model.graph.all_nodes() if _may_be_lacking(node, opset)]
        if not nodes:
            return False
        InferShapes()(model)
        for index, node in enumerate(node for node in nodes if _is_lacking(node)):
            body = _function_body(node, model.opset_imports[node.domain])
            if body is None:
                continue
            _compute_all_outputs(body)
            _write_defaults_out(node, model.opset_imports[node.domain])
            function = ir.from_proto(body)
            assert isinstance(function, ir.Function)
            function.domain, function.name = _DOMAIN, f"{node.op_type}_{index}"
            function.opset_imports[""] = opset
            model.functions[function.identifier()] = function
            node.domain, node.op_type = function.domain, function.name
            for name in [name for name, each in node.attributes.items() if each.type == ir.AttributeType.GRAPH]:
                del node.attributes[name]  # its nodes are in the body
        return bool(model.functions)


def _may_be_lacking(node: ir.Node, opset: int) -> bool:
    if node.domain == PREVIEW:
        return bool(onnx.defs.has(node.op_type, PREVIEW))
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return False
    if node.op_type == "Attention":
        return any(node.attributes.get_int(name, -1) >= 0 for name in _WINDOW)
    return opset > CANONICAL_OPSET and onnx.defs.get_schema(node.op_type, opset, "").since_version > CANONICAL_OPSET


def _is_lacking(node: ir.Node) -> bool:
    return node.domain == PREVIEW or node.op_type == "Attention" or lowest_opset(node) is None


def _function_body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.op_type, opset, node.domain)  # the stubs of onnx lack functions
    if schema.has_function:
        text = schema.get_function_with_opset_version(max(schema.function_opset_versions))
    elif schema.has_context_dependent_function and all(value is None or value.type for value in node.inputs):
        types = [_type_proto(value).SerializeToString() for value in node.inputs]
        version = max(schema.context_dependent_function_opset_versions)
        proto = ir.to_proto(node).SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(version, proto, types)
        if not text:
            raise UnsupportedError(
                f"The definition of {describe(node)} depends on sizes of its inputs that are unknown; make them static"
            )
    else:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(text)
    return body


def _write_defaults_out(node: ir.Node, opset: int) -> None:
    for name, attribute in onnx.defs.get_schema(node.op_type, opset, node.domain).attributes.items():
        if name not in node.attributes and attribute.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def _compute_all_outputs(body: onnx.FunctionProto) -> None:
    """Let the body give something for the outputs that the node leaves out, which it does not compute."""
    computed = {name for node in body.node for name in node.output}
    for name in set(body.output) - computed:
        body.node.append(onnx.helper.make_node("Identity", [body.input[0]], [name]))


def _type_proto(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    return ir.serde.serialize_value(value).type
