"""A graph as ONNX Runtime's kernels on this machine's processor like it."""

from __future__ import annotations

from functools import cache

import onnx_ir as ir
import onnxruntime as ort

from ..passes.block_convolutions import BlockConvolutions
from ..passes.blocked_layout import ALIGNMENT, DOMAIN
from ..passes.transpose_wide_products import TransposeWideProducts


def adapt_to_processor(model: ir.Model) -> None:
    """Rewrite *model*, of canonical opset and with shapes, for a session on this processor."""
    TransposeWideProducts().call(model)
    block = block_size()
    if block is not None:
        BlockConvolutions(block).call(model)


@cache
def block_size() -> int | None:
    """How many channels are a block (`passes.blocked_layout`); None where the runtime has no such layout."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, ALIGNMENT, 1, 1]))
    y = ir.Value(name="y", type=x.type)
    node = ir.Node(DOMAIN, "ReorderInput", [x], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[node], opset_imports={"": 18, DOMAIN: 1}, name="blocks")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        proto = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
        session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    except Exception:  # the runtime's own, of no common class: it knows no such operator
        return None
    return int(session.get_outputs()[0].shape[1])
