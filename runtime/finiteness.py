"""Graphs that count their NaN and infinities while they run, and keep no value for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..passes.activity import is_float
from .device import Provider
from .executor import create_session, run_bound, session_options

Feeds = Mapping[str, np.ndarray]
Counts = tuple[ir.Value, ir.Value]
"""How many NaN and how many infinities a value has: int32 scalars."""


def count_values(graph: ir.Graph, fresh: Callable[[str], str]) -> dict[ir.Value, Counts]:
    """Append the counts of every float tensor that *graph* itself computes; *fresh* makes names."""
    counted: dict[ir.Value, Counts] = {}
    for value in [value for node in graph for value in node.outputs if is_float_tensor(value)]:
        nodes = list(_counting_nodes(value))
        graph.extend(nodes)
        for node in nodes:
            node.name = node.outputs[0].name = fresh(f"{value.name}/{node.op_type}")
        nan, infinities = [node.outputs[0] for node in nodes if node.op_type == "ReduceSum"]
        for count in (nan, infinities):
            count.type, count.shape = ir.TensorType(ir.DataType.INT32), ir.Shape([])
        counted[value] = (nan, infinities)
    return counted


def run_as_written(model: ir.Model, feeds: Feeds, providers: Sequence[Provider]) -> list[np.ndarray]:
    """The outputs of *model* without the runtime's fusions, with which not all of its values would be there."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create_session(model, providers, options)
    taken = {value.name for value in model.graph.inputs}
    binding = session.io_binding()
    for name, array in feeds.items():
        if name in taken:
            binding.bind_ortvalue_input(name, _ortvalue(array))
    for value in model.graph.outputs:
        binding.bind_output(value.name, "cpu")
    run_bound(session, binding)
    return [np.array(value.numpy()) for value in binding.get_outputs()]


def is_float_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and is_float(value)


def _counting_nodes(value: ir.Value) -> Iterator[ir.Node]:
    if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):  # for which there are few kernels
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
        yield cast
        value = cast.outputs[0]
    for operator in ("IsNaN", "IsInf"):
        test = ir.node(operator, [value])
        number = ir.node("Cast", [test.outputs[0]], {"to": ir.DataType.INT32})
        yield from (test, number, ir.node("ReduceSum", [number.outputs[0]], {"keepdims": 0}))


def _ortvalue(array: np.ndarray) -> ort.OrtValue:
    if array.dtype.name == "bfloat16":
        bits = array.view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, int(ir.DataType.BFLOAT16))
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))
