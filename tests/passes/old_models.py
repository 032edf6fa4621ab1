"""Models of older opsets, of one node or as ONNX text, and what they compute in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.upgrade_opset import UpgradeOpset


def sample(*shape: int) -> np.ndarray:
    """Some float32 array of *shape*, the same each time."""
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def model(
    op: str, opset: int, inputs: list[np.ndarray], attributes: dict, outputs: int, *, symbolic: bool
) -> onnx.ModelProto:
    """A model of one node `n` from `x0, x1, …` to `y0, y1, …`."""
    types = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in inputs]
    graph = helper.make_graph(
        [
            helper.make_node(
                op, [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)], "n", **attributes
            )
        ],
        "case",
        [
            helper.make_tensor_value_info(
                f"x{i}", dtype, [f"d{i}_{axis}" for axis in range(array.ndim)] if symbolic else array.shape
            )
            for i, (array, dtype) in enumerate(zip(inputs, types, strict=True))
        ],
        [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs in ONNX Runtime, fed by position."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": array for i, array in enumerate(inputs)})


def upgraded_text(text: str, opset: int) -> ir.Model:
    """The model of a graph in ONNX's text syntax, upgraded, checked, and lowered to where the runtime has kernels."""
    text = f'<ir_version: 7, opset_import: ["" : {opset}, "com.microsoft" : 1]> {text}'
    upgraded = ir.from_proto(onnx.parser.parse_model(text))
    UpgradeOpset()(upgraded)
    InferShapes()(upgraded)
    onnx.checker.check_model(ir.to_proto(upgraded))
    LowerOpset()(upgraded)
    return upgraded


def run_named(upgraded: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    """The outputs in ONNX Runtime, fed by name."""
    session = ort.InferenceSession(ir.to_proto(upgraded).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)
