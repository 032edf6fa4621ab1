"""Models written as ONNX text, and what they compute, for the tests of graph-to-graph passes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxgrad.passes.infer_shapes import InferShapes

Arrays = Mapping[str, np.ndarray]


def parse(graph: str, *, initializers: Arrays | None = None, opset: int = 26, infer: bool = True) -> ir.Model:
    """The model of a graph in ONNX's text syntax; *initializers* are added to those in the text."""
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{graph}')
    for name, array in (initializers or {}).items():
        add_initializer(model, name, array)
    if infer:
        InferShapes().call(model)
    return model


def add_initializer(model: ir.Model, name: str, array: np.ndarray) -> None:
    """Give the values called *name*, which nothing computes, an initializer."""
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )
    for node in model.graph.all_nodes():
        for index, read in enumerate(node.inputs):
            if read is not None and read.name == name:
                node.replace_input_with(index, value)
    model.graph.register_initializer(value)


def run(model: ir.Model, feeds: Arrays) -> dict[str, np.ndarray]:
    """The outputs by name, in ONNX Runtime without optimizations; the model is checked first."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def check_pass(
    step: ir.passes.InPlacePass, model: ir.Model, feeds: Arrays, *, rtol: float = 0.0, atol: float = 0.0
) -> bool:
    """Run *step* on *model* and check that its outputs keep their names and values; whether it was modified.

    A second run must find nothing left to do.
    """
    expected = run(model, feeds)
    modified = step.call(model).modified
    actual = run(model, feeds)
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        np.testing.assert_allclose(actual[name], array, rtol=rtol, atol=atol, err_msg=name)
    before = operators(model)
    assert not step.call(model).modified
    assert operators(model) == before
    return modified


def operators(model: ir.Model) -> list[str]:
    """The operators of the main graph in file order."""
    return [node.op_type for node in model.graph]


def only(model: ir.Model, op_type: str) -> ir.Node:
    """The one node of *op_type*."""
    (node,) = [node for node in model.graph if node.op_type == op_type]
    return node
