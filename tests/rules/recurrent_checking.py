"""The contract tester of the recurrent rules: values, gradients and their gradients against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from onnxgrad.passes.differentiate import differentiate
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.rules import BUILTIN_RULES
from onnxgrad.passes.tape import CANONICAL_OPSET

from .checking import assert_close, run_runtime
from .recurrent_reference import gru, lstm, rnn

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
TOLERANCES = {"float64": 1e-10, "float32": 2e-5, "float16": 2e-2}
HIDDEN = 3

Arrays = list[np.ndarray | None]


def sample_inputs(
    op_type: str,
    *,
    directions: int = 1,
    steps: int = 4,
    batch: int = 3,
    lengths: Sequence[int] | None = None,
    bias: bool = True,
    states: bool = True,
    peepholes: bool = False,
    batch_first: bool = False,
    scale: float = 0.8,
) -> Arrays:
    """Inputs of a recurrent operator in float64, None where omitted."""
    random = np.random.default_rng(3)
    gates, size = GATES[op_type] * HIDDEN, 2

    def draw(*shape: int) -> np.ndarray:
        return random.uniform(-scale, scale, shape)

    def of_sequences(*shape: int) -> np.ndarray:
        array = draw(*shape)
        return np.ascontiguousarray(array.swapaxes(0, 1)) if batch_first else array

    inputs: Arrays = [of_sequences(steps, batch, size), draw(directions, gates, size), draw(directions, gates, HIDDEN)]
    inputs.append(draw(directions, 2 * gates) if bias else None)
    inputs.append(None if lengths is None else np.array(lengths, np.int32))
    inputs.append(of_sequences(directions, batch, HIDDEN) if states else None)
    if op_type == "LSTM":
        inputs.append(of_sequences(directions, batch, HIDDEN) if states else None)
        inputs.append(draw(directions, 3 * HIDDEN) if peepholes else None)
    return inputs


def check_recurrent(
    op_type: str,
    inputs: Arrays,
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[int] | None = None,
    wrt: Sequence[int] | None = None,
    dtypes: Sequence[type] = (np.float64,),
    symbolic: Sequence[bool] = (False, True),
    second_order: bool = True,
) -> None:
    """Hold values, gradients and second derivatives, as ONNX Runtime computes them, against PyTorch's.

    Args:
        outputs: the indices of the outputs that the node has; all if None.
        wrt: the indices of the inputs to differentiate; all float ones if None.
    """
    attributes = {"hidden_size": HIDDEN, **(attributes or {})}
    outputs = list(range(3 if op_type == "LSTM" else 2)) if outputs is None else outputs
    wrt = wrt or [index for index, array in enumerate(inputs) if array is not None and array.dtype.kind == "f"]
    leaves = [None if array is None else torch.tensor(array, requires_grad=i in wrt) for i, array in enumerate(inputs)]
    results = FUNCTIONS[op_type](*leaves, **attributes)
    values = [results[index] for index in outputs]
    random = np.random.default_rng(4)
    seeds = [torch.tensor(random.standard_normal(value.shape), requires_grad=True) for value in values]
    sources = [leaf for index in wrt if (leaf := leaves[index]) is not None]
    gradients = torch.autograd.grad(values, sources, seeds, create_graph=True, materialize_grads=True)
    directions = [torch.tensor(random.standard_normal(gradient.shape)) for gradient in gradients]
    again = torch.autograd.grad(gradients, [*sources, *seeds], directions, allow_unused=True, materialize_grads=True)

    names = [f"x{index}" for index in wrt]
    seeded = {f"y{index}.seed": seed.detach().numpy() for index, seed in zip(outputs, seeds, strict=True)}
    feeds = {f"x{index}": array for index, array in enumerate(inputs) if array is not None} | seeded
    for dims in symbolic:
        for dtype in dtypes:
            kind = np.dtype(dtype).name
            typed = {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in feeds.items()}
            first = gradient_graph(forward_model(op_type, inputs, attributes, outputs, dtype, symbolic=dims), names)
            found = run_runtime(first, typed)
            for result, expected in zip(found, [*values, *gradients], strict=True):
                assert result.dtype == dtype
                assert_close(result, expected.detach().numpy(), TOLERANCES[kind], f"values and gradients in {kind}")
        if second_order:
            second = gradient_graph(first, [*names, *seeded], [f"{name}.grad" for name in names], ".grad.grad")
            along = {f"{name}.grad.seed": d.numpy() for name, d in zip(names, directions, strict=True)}
            found = run_runtime(second, {**feeds, **along})[-len(again) :]
            for result, expected in zip(found, again, strict=True):
                assert_close(result, expected.numpy(), TOLERANCES["float64"], "second derivatives")


def forward_model(
    op_type: str,
    inputs: Arrays,
    attributes: Mapping[str, Any],
    outputs: Sequence[int],
    dtype: type,
    *,
    symbolic: bool = False,
) -> onnx.ModelProto:
    """The operator as a model; only steps and batch are symbolic, since the size of the weights is given."""
    batch_first = bool(attributes.get("layout", 0))
    steps_and_batch = ["batch", "steps"] if batch_first else ["steps", "batch"]
    state = ["batch", None, None] if batch_first else [None, "batch", None]
    names: dict[int, list[str | None]] = {0: [*steps_and_batch, None], 4: ["batch"], 5: state, 6: state}

    def shape(index: int, array: np.ndarray) -> list[int | str]:
        symbols = names.get(index, [None] * array.ndim) if symbolic else [None] * array.ndim
        return [symbol or size for symbol, size in zip(symbols, array.shape, strict=True)]

    given = [(index, array) for index, array in enumerate(inputs) if array is not None]
    node = onnx.helper.make_node(
        op_type,
        ["" if array is None else f"x{index}" for index, array in enumerate(inputs)],
        [f"y{index}" if index in outputs else "" for index in range(max(outputs) + 1)],
        name="node",
        **attributes,
    )
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.helper.make_graph(
        [node],
        "case",
        [
            onnx.helper.make_tensor_value_info(
                f"x{index}", element if array.dtype.kind == "f" else onnx.TensorProto.INT32, shape(index, array)
            )
            for index, array in given
        ],
        [onnx.helper.make_empty_tensor_value_info(f"y{index}") for index in outputs],
    )
    opset = onnx.helper.make_opsetid("", CANONICAL_OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=13)


def gradient_graph(
    model: onnx.ModelProto, wrt: Sequence[str], outputs: Sequence[str] | None = None, suffix: str = ".grad"
) -> onnx.ModelProto:
    """*model* with the gradients of *outputs* (all if None) by the names *wrt* as further outputs."""
    joint = InferShapes()(ir.from_proto(model)).model
    values = {value.name: value for value in joint.graph.inputs}
    seeds = {}
    for output in joint.graph.outputs:
        if outputs is None or output.name in outputs:
            seeds[output] = ir.Value(name=f"{output.name}.seed", type=output.type, shape=output.shape)
            joint.graph.inputs.append(seeds[output])
    gradients = differentiate(joint.graph, seeds, [values[name] for name in wrt], BUILTIN_RULES)
    for name in wrt:
        node = ir.node("Identity", [gradients[values[name]]])
        node.outputs[0].name = f"{name}{suffix}"
        node.outputs[0].type, node.outputs[0].shape = values[name].type, values[name].shape
        joint.graph.append(node)
        joint.graph.outputs.append(node.outputs[0])
    proto = ir.to_proto(joint)
    onnx.checker.check_model(proto)
    return proto
