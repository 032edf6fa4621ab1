"""The output opset: the lowest that can express the graph, so that the oldest runtimes can run it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx
import onnx_ir as ir

from .attributes import make_attribute
from .errors import InputError, InvalidModelError, UnsupportedError, describe
from .older_forms import form_at, has_older_forms
from .subgraphs import all_graphs
from .tape import CANONICAL_OPSET

LOWEST_OPSET = 18
"""The lowest opset that is written; its forms of the operators are those of the canonical one, nearly all."""

_Formal = onnx.defs.OpSchema.FormalParameter

_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}

_VALUES_SINCE = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
}
"""The opset from which on an attribute may have a value, where the schema does not say so (ONNX spec, changelog)."""


class LowerOpset(ir.passes.InPlacePass):
    """Write the graph in the lowest opset from 18 to 26 that can express it, or in *target*.

    Requires the canonical form, with types inferred. Raises InputError for a *target* outside that range,
    UnsupportedError (naming the nodes) for one that cannot express the graph, and InvalidModelError (naming the
    nodes, and what is wrong with them) where no opset can.
    """

    def __init__(self, target: int | None = None) -> None:
        super().__init__()
        if target is not None and not (isinstance(target, int) and LOWEST_OPSET <= target <= CANONICAL_OPSET):
            raise InputError(f"opset is {LOWEST_OPSET} to {CANONICAL_OPSET}, not {target!r}")
        self._target = target

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for graph in all_graphs(model.graph) for node in graph if _is_standard(node)]
        needed = {node: lowest_opset(node) for node in nodes}
        invalid = [node for node, opset in needed.items() if opset is None]
        if invalid:
            raise InvalidModelError(
                "These nodes are not valid in any opset:\n"
                + "\n".join(f"  - {describe(node)}: {_objection(node, CANONICAL_OPSET)}" for node in invalid)
            )
        lowest = max((opset for opset in needed.values() if opset is not None), default=LOWEST_OPSET)
        opset = lowest if self._target is None else self._target
        if opset < lowest:
            demanding = [(node, since) for node, since in needed.items() if since is not None and since > opset]
            raise UnsupportedError(
                f"Opset {opset} cannot express these nodes:\n"
                + "\n".join(f"  - {describe(node)} needs opset {since}" for node, since in demanding)
            )
        for node in nodes:
            _write(node, opset)
        model.opset_imports[""] = opset
        model.ir_version = _IR_VERSIONS[opset]
        return ir.passes.PassResult(model, modified=True)


def lowest_opset(node: ir.Node) -> int | None:
    """The lowest opset from 18 on that has *node*, in its form of that opset; None if there is none."""
    opsets = range(LOWEST_OPSET, CANONICAL_OPSET + 1)
    return next((opset for opset in opsets if _objection(node, opset) is None), None)


def _is_standard(node: ir.Node) -> bool:
    """Whether ONNX defines the operator. Runtimes have more of their own in the same domain."""
    return node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type)


def _write(node: ir.Node, opset: int) -> None:
    """Give *node* its form of *opset*, without the attributes that came later, which have their defaults."""
    known = _attributes(node.op_type, opset)
    if node.attributes.data.keys() <= known and not has_older_forms(node.op_type):
        return
    form = form_at(node, opset)
    assert form is not None
    for name in set(node.attributes) - (set(form.attributes) & known):
        del node.attributes[name]
    for name, value in form.attributes.items():
        if name in known and (name not in node.attributes or node.attributes[name].value != value):
            node.attributes[name] = make_attribute(name, value)
    dropped = node.inputs[len(form.inputs) :]
    node.resize_inputs(len(form.inputs))
    for value in dropped:
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            assert value.graph is not None
            del value.graph.initializers[str(value.name)]


def _objection(node: ir.Node, opset: int) -> str | None:
    """Why *opset* does not have *node*, or None if it does."""
    schema, form = _schema(node.op_type, opset), form_at(node, opset)
    if schema is None:
        return "there is no such operator"
    if schema.deprecated:
        return f"the operator is deprecated since opset {schema.since_version}"
    if form is None:
        return "it has an older form"
    if len(form.inputs) > schema.max_input:
        return f"it has {len(form.inputs)} inputs; the operator takes up to {schema.max_input}"
    if len(node.outputs) > schema.max_output:
        return f"it has {len(node.outputs)} outputs; the operator gives up to {schema.max_output}"
    for name, value in form.attributes.items():
        if name not in _attributes(node.op_type, opset) and not _is_default(node.op_type, name, value):
            return f"the operator has no attribute {name!r}"
        if isinstance(value, str) and opset < _VALUES_SINCE.get((node.op_type, name, value), 0):
            return f"{name}={value!r} came later"
    values = (*form.inputs, *node.outputs)
    wrong = _wrong_type(node.op_type, schema.since_version, len(form.inputs), tuple(map(_tensor_type, values)))
    return None if wrong is None else wrong.format(*("" if value is None else value.name for value in values))


def _tensor_type(value: ir.Value | None) -> ir.DataType | None:
    return value.dtype if value is not None and isinstance(value.type, ir.TensorType) else None


@cache
def _wrong_type(op_type: str, version: int, inputs: int, types: tuple[ir.DataType | None, ...]) -> str | None:
    """What is wrong with the types: one that is not allowed, or two for what has to be of one type.

    Args:
        inputs: how many of the types are those of inputs; the others are those of outputs.

    Returns:
        the objection, with a format field in the place of each value's name.
    """
    schema = onnx.defs.get_schema(op_type, version, "")
    allowed = {each.type_param_str: frozenset(each.allowed_type_strs) for each in schema.type_constraints}
    formals = [*_formals(schema.inputs, inputs), *_formals(schema.outputs, len(types) - inputs)]
    bound: dict[str, tuple[str, int]] = {}
    for index, (dtype, formal) in enumerate(zip(types, formals, strict=True)):
        if dtype is None or formal is None:
            continue
        name, parameter = _type_string(dtype), formal.type_str
        if name not in allowed.get(parameter, (parameter,)):
            return f"{{{index}!r}}, its {formal.name}, is {name}, which the operator does not allow"
        if parameter in allowed and formal.is_homogeneous:
            other, first = bound.setdefault(parameter, (name, index))
            if other != name:
                return f"{{{index}!r}} is {name} and {{{first}!r}} is {other}, which have to be of one type"
    return None


def _formals(declared: Sequence[_Formal], count: int) -> list[_Formal | None]:
    """What the schema says of each of *count* inputs or outputs; its last entry may stand for many."""
    return [declared[min(index, len(declared) - 1)] if declared else None for index in range(count)]


def _is_default(op_type: str, name: str, value: object) -> bool:
    """Whether the attribute came later than some opset and has the value that it has there tacitly."""
    schema = _schema(op_type, CANONICAL_OPSET)
    if schema is None or name not in schema.attributes:
        return False
    default = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
    return bool(default == value or (isinstance(default, bytes) and default.decode() == value))


@cache
def _attributes(op_type: str, opset: int) -> frozenset[str]:
    schema = _schema(op_type, opset)
    return frozenset() if schema is None else frozenset(schema.attributes)


@cache
def _schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _type_string(dtype: ir.DataType) -> str:
    names = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
    return f"tensor({names.get(dtype, dtype.name.lower())})"
