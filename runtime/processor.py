"""A graph as ONNX Runtime's kernels on this machine's processor like it."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..passes.block_convolutions import BlockConvolutions
from ..passes.blocked_layout import ALIGNMENT, DOMAIN
from ..passes.fourier_by_products import FourierByProducts
from ..passes.scatter_in_pieces import ScatterInPieces, adds_slices
from ..passes.transpose_wide_products import TransposeWideProducts


def adapt_to_processor(model: ir.Model) -> None:
    """Rewrite *model*, of canonical opset and with shapes, for a session on this processor."""
    FourierByProducts().call(model)
    TransposeWideProducts().call(model)
    block = block_size()
    if block is not None:
        BlockConvolutions(block).call(model)
    if any(adds_slices(node) for node in model.graph):
        most = scattered_on_one_thread()
        if most is not None:
            ScatterInPieces(most).call(model)


_SCATTERED = 190_000
"""How many elements ONNX Runtime 1.31 adds in one ScatterND before a second thread helps, less a margin."""
_WIDTH = 64
_TRIALS = 20


@cache
def scattered_on_one_thread() -> int | None:
    """How many elements a ScatterND adds on one thread (`passes.scatter_in_pieces`); None if that is not so.

    It is tried with all updates at one position, of which several threads lose some nearly every time.
    """
    rows = _SCATTERED // _WIDTH
    inputs = [
        ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        for name, dtype, shape in (
            ("data", ir.DataType.FLOAT, [1, _WIDTH]),
            ("indices", ir.DataType.INT64, [rows, 1]),
            ("updates", ir.DataType.FLOAT, [rows, _WIDTH]),
        )
    ]
    y = ir.Value(name="y", type=inputs[0].type)
    node = ir.node("ScatterND", inputs, {"reduction": "add"}, outputs=[y])
    graph = ir.Graph(inputs, [y], nodes=[node], opset_imports={"": 18}, name="scatter")
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(os.cpu_count() or 1, 4)
    proto = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    feeds = {
        "data": np.zeros((1, _WIDTH), np.float32),
        "indices": np.zeros((rows, 1), np.int64),
        "updates": np.ones((rows, _WIDTH), np.float32),
    }
    counts = (np.asarray(session.run(None, feeds)[0]) for _ in range(_TRIALS))
    return _SCATTERED if all(bool(np.all(count == rows)) for count in counts) else None


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
