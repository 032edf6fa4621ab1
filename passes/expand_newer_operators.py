"""Operators that are newer than the canonical opset become the functions that the standard defines them by."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from .infer_shapes import InferShapes
from .inline_functions import InlineFunctions
from .lift_constants import LiftConstants
from .tape import CANONICAL_OPSET

_DOMAIN = "onnxgrad.newer"


class ExpandNewerOperators(ir.passes.InPlacePass):
    """Inline the function body of every ai.onnx operator that came after the canonical opset, if it has one.

    The others, and those that only changed since, are left to UpgradeOpset.

    Requires: functions are inlined, constants lifted.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", CANONICAL_OPSET)
        modified = False
        # The bodies of some depend on the types of the inputs, which may come out of others.
        while opset > CANONICAL_OPSET and self._expand(model, opset):
            model.opset_imports[_DOMAIN] = 1
            InlineFunctions()(model)
            LiftConstants()(model)
            del model.opset_imports[_DOMAIN]
            modified = True
        return ir.passes.PassResult(model, modified)

    def _expand(self, model: ir.Model, opset: int) -> bool:
        newer = [node for node in model.graph.all_nodes() if _is_newer(node, opset)]
        if not newer:
            return False
        InferShapes()(model)
        for index, node in enumerate(newer):
            body = _function_body(node, opset)
            if body is None:
                continue
            function = ir.from_proto(body)
            assert isinstance(function, ir.Function)
            function.domain, function.name = _DOMAIN, f"{node.op_type}_{index}"
            function.opset_imports[""] = opset
            model.functions[function.identifier()] = function
            node.domain, node.op_type = function.domain, function.name
        return bool(model.functions)


def _is_newer(node: ir.Node, opset: int) -> bool:
    """Whether the operator is none of the canonical opset."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return False
    try:
        onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, "")
    except onnx.defs.SchemaError:
        return onnx.defs.get_schema(node.op_type, "").since_version <= opset
    return False


def _function_body(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.op_type, opset, "")  # the stubs of onnx lack functions
    if schema.has_function:
        text = schema.get_function_with_opset_version(max(schema.function_opset_versions))
    elif schema.has_context_dependent_function and all(value is None or value.type for value in node.inputs):
        types = [_type_proto(value).SerializeToString() for value in node.inputs]
        version = max(schema.context_dependent_function_opset_versions)
        proto = ir.to_proto(node).SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(version, proto, types)
    else:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(text)
    return body


def _type_proto(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    return ir.serde.serialize_value(value).type
