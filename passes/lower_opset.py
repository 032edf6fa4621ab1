"""The output opset: the lowest that can express the graph, so that the oldest runtimes can run it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .errors import InputError, UnsupportedError, describe
from .tape import CANONICAL_OPSET

LOWEST_OPSET = 18
"""The lowest opset that is written; its forms of the operators are those of the canonical one, nearly all."""

_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}
_FORM_CHANGED = {"DFT": 20, "GridSample": 20, "GroupNormalization": 21}


class LowerOpset(ir.passes.InPlacePass):
    """Write the graph in the lowest opset from 18 to 26 that can express it, or in *target*.

    Requires the canonical form. Raises InputError for a *target* outside that range, UnsupportedError (naming the
    nodes) for one that cannot express the graph.
    """

    def __init__(self, target: int | None = None) -> None:
        super().__init__()
        if target is not None and not LOWEST_OPSET <= target <= CANONICAL_OPSET:
            raise InputError(f"opset is {LOWEST_OPSET} to {CANONICAL_OPSET}, not {target}")
        self._target = target

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph.all_nodes() if node.domain in ("", "ai.onnx")]
        needed = {node: lowest_opset(node) for node in nodes}
        lowest = max(needed.values(), default=LOWEST_OPSET)
        opset = lowest if self._target is None else self._target
        if opset < lowest:
            demanding = [node for node in nodes if needed[node] > opset]
            raise UnsupportedError(
                f"Opset {opset} cannot express these nodes:\n"
                + "\n".join(f"  - {describe(node)} needs opset {needed[node]}" for node in demanding)
            )
        for node in nodes:
            _drop_unknown_defaults(node, opset)
        model.opset_imports[""] = opset
        model.ir_version = _IR_VERSIONS[opset]
        return ir.passes.PassResult(model, modified=True)


def lowest_opset(node: ir.Node) -> int:
    """The lowest opset from 18 on whose schema admits *node* as it is."""
    if not onnx.defs.has(node.op_type):
        return LOWEST_OPSET
    for opset in range(max(LOWEST_OPSET, _FORM_CHANGED.get(node.op_type, 0)), CANONICAL_OPSET):
        if _admits(node, opset):
            return opset
    return CANONICAL_OPSET


def _admits(node: ir.Node, opset: int) -> bool:
    schema = _schema(node.op_type, opset)
    if schema is None or schema.deprecated:
        return False
    unknown = set(node.attributes) - set(schema.attributes)
    if any(not _is_default(node, name) for name in unknown):
        return False
    inputs = [value for value in node.inputs if value is not None]
    if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
        return False
    return _types_allowed(inputs, node, schema)


def _types_allowed(inputs: list[ir.Value], node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    constraints = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            if value is None or value.dtype is None or not formals or not isinstance(value.type, ir.TensorType):
                continue
            formal = formals[min(index, len(formals) - 1)]
            allowed = constraints.get(formal.type_str, [formal.type_str])
            if _type_string(value.dtype) not in allowed:
                return False
    return True


def _drop_unknown_defaults(node: ir.Node, opset: int) -> None:
    schema = _schema(node.op_type, opset)
    if schema is not None:
        for name in set(node.attributes) - set(schema.attributes):
            del node.attributes[name]


def _is_default(node: ir.Node, name: str) -> bool:
    schema = _schema(node.op_type, CANONICAL_OPSET)
    if schema is None or name not in schema.attributes:
        return False
    default = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
    value = node.attributes[name].value
    return bool(default == value or (isinstance(default, bytes) and default.decode() == value))


def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _type_string(dtype: ir.DataType) -> str:
    names = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
    return f"tensor({names.get(dtype, dtype.name.lower())})"
