"""The one opset that the rules know: every ai.onnx node in the form of the canonical opset.

Done here, on the graph itself, and not by the converter in `onnx`: that one loses the nodes' names and metadata and
does not handle subgraphs or the operators of other domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from .errors import UnsupportedError, describe
from .fresh_names import FreshNames
from .infer_shapes import InferShapes
from .newer_forms import NEWER_FORMS
from .node_editor import NodeEditor
from .opset_adapters import ADAPTERS
from .tape import CANONICAL_OPSET

_OLDEST = 7
_IR_VERSION = 10


class UpgradeOpset(ir.passes.InPlacePass):
    """Bring all ai.onnx nodes, those of subgraphs included, from opset 7 or a later one to the form of opset 26.

    Requires that functions are inlined. Names, metadata and the nodes of other domains stay.

    Raises UnsupportedError for an older opset, for a newer one that is unknown or whose operators changed since, and
    for a node whose old form has no equivalent.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = _pop_opset(model)
        if opset < _OLDEST:
            raise UnsupportedError(
                f"The model is of opset {opset}; onnxgrad reads opsets {_OLDEST} to {onnx.defs.onnx_opset_version()}. "
                f"Convert it first: onnx.version_converter.convert_version(model, {_OLDEST})"
            )
        if opset > CANONICAL_OPSET:
            _write_in_canonical_form(model, opset)
            _refuse_newer_operators(model, opset)
        model.opset_imports[""] = opset
        nodes = [node for node in model.graph.all_nodes() if node.domain in ("", "ai.onnx")]
        _give_loops_a_condition(model, nodes)
        changed = [node for node in nodes if any(op == node.op_type and v > opset for op, v in ADAPTERS)]
        if changed:
            names = FreshNames(model.graph)
            InferShapes()(model)
            for version in range(opset + 1, CANONICAL_OPSET + 1):
                adapted = [node for node in changed if (node.op_type, version) in ADAPTERS]
                for node in adapted:
                    ADAPTERS[node.op_type, version](NodeEditor(node, names))
                model.opset_imports[""] = version
                if adapted and _has_unknown_shapes(model):
                    # The oldest forms have no shape inference; what comes behind them is known only now.
                    InferShapes()(model)
        model.opset_imports[""] = CANONICAL_OPSET
        model.ir_version = max(model.ir_version, _IR_VERSION)
        return ir.passes.PassResult(model, modified=opset != CANONICAL_OPSET)


def _write_in_canonical_form(model: ir.Model, opset: int) -> None:
    newer = [node for node in model.graph.all_nodes() if node.op_type in NEWER_FORMS and node.domain in ("", "ai.onnx")]
    if newer:
        model.opset_imports[""] = opset
        InferShapes()(model)
        names = FreshNames(model.graph)
        for node in newer:
            NEWER_FORMS[node.op_type](NodeEditor(node, names))


def _pop_opset(model: ir.Model) -> int:
    """The version of ai.onnx, which goes by two names."""
    versions = [model.opset_imports.pop(name, None) for name in ("", "ai.onnx")]
    return next((version for version in versions if version is not None), CANONICAL_OPSET)


def _has_canonical_form(node: ir.Node, opset: int) -> bool:
    """Whether the node means the same in the canonical opset. Attributes that say what it does anyway are dropped."""
    try:
        canonical = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, "")
    except onnx.defs.SchemaError:
        return False
    added = onnx.defs.get_schema(node.op_type, opset, "").attributes.keys() - canonical.attributes.keys()
    for name in added & node.attributes.keys():
        default = onnx.defs.get_schema(node.op_type, opset, "").attributes[name].default_value
        if ir.serde.deserialize_attribute(default).value != node.attributes[name].value:
            return False
        del node.attributes[name]
    return len(node.inputs) <= canonical.max_input


def _give_loops_a_condition(model: ir.Model, nodes: Sequence[ir.Node]) -> None:
    """Write out that a Loop whose condition is omitted goes on; shape inference asks for one."""
    unconditional = [node for node in nodes if node.op_type == "Loop" and node.inputs[1] is None]
    if unconditional:
        true = ir.Value(name=FreshNames(model.graph).fresh("true"), const_value=ir.tensor(np.array(True)))
        true.type, true.shape = ir.TensorType(ir.DataType.BOOL), ir.Shape([])
        assert true.const_value is not None
        true.const_value.name = true.name
        model.graph.register_initializer(true)
        for node in unconditional:
            node.replace_input_with(1, true)


def _has_unknown_shapes(model: ir.Model) -> bool:
    return any(value.shape is None for node in model.graph.all_nodes() for value in node.outputs)


def _refuse_newer_operators(model: ir.Model, opset: int) -> None:
    known = onnx.defs.onnx_opset_version()
    if opset > known:
        raise UnsupportedError(
            f"The model is of opset {opset}; the installed onnx {onnx.__version__} knows opsets up to {known}. "
            f"Install a newer onnx, or export the model with opset {CANONICAL_OPSET}"
        )
    newer = []
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
            since = onnx.defs.get_schema(node.op_type, opset, "").since_version
            if since > CANONICAL_OPSET and not _has_canonical_form(node, opset):
                newer.append(f"{describe(node)}, changed in opset {since}")
    if newer:
        raise UnsupportedError(
            f"The model is of opset {opset}; ONNX Runtime's newest is {CANONICAL_OPSET}, and these nodes have no form "
            "in it:\n" + "\n".join(f"  - {text}" for text in newer)
        )
