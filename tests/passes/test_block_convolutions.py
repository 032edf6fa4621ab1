"""Convolutions in blocks of channels against PyTorch in float64, in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import onnxgrad
from onnxgrad.passes.block_convolutions import BlockConvolutions
from onnxgrad.passes.blocked_layout import DOMAIN
from onnxgrad.passes.correlations import CORRELATION
from onnxgrad.runtime.processor import block_size

BLOCK = block_size()
pytestmark = pytest.mark.skipif(BLOCK is None, reason="ONNX Runtime has no blocked layout for this processor")

TOLERANCE = 1e-5
"""Relative to the largest element; float32 sums of some thousand addends."""


def convolution(
    x: list[int | str], w: tuple[int, ...], op_type: str = "Conv", *, relu: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """A convolution with a bias, of opset 18; *x* is the shape of the input, a name is a symbolic size."""
    many = w[0] if op_type == "Conv" else w[1] * attributes.get("group", 1)
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal(w, np.float32) / np.float32(np.sqrt(np.prod(w[1:]))),
        "b": rng.standard_normal(many, np.float32),
    }
    nodes = [onnx.helper.make_node(op_type, ["x", "w", "b"], ["z"], name="conv", **attributes)]
    nodes.append(onnx.helper.make_node("Relu" if relu else "Identity", ["z"], ["y"], name="after"))
    graph = onnx.helper.make_graph(
        nodes,
        "convolution",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [onnx.helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def expected(
    model: onnx.ModelProto, x: np.ndarray, dy: np.ndarray, op_type: str, relu: bool, attributes: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The output and the gradients by PyTorch in float64."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | {"x": x}
    leaves = {name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in arrays.items()}
    options = {"stride": attributes.get("strides", 1), "dilation": attributes.get("dilations", 1)}
    rank = x.ndim - 2
    pads = attributes.get("pads", (0, 0) * rank)
    padded = leaves["x"]
    if op_type == "Conv":
        around = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
        padded = torch.nn.functional.pad(padded, around)
        function = getattr(torch.nn.functional, f"conv{rank}d")
    else:
        function = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        options["output_padding"] = attributes.get("output_padding", 0)
    y = function(padded, leaves["w"], leaves["b"], groups=attributes.get("group", 1), **options)
    if op_type == "ConvTranspose":
        for axis in range(rank):
            y = y.narrow(axis + 2, pads[axis], y.shape[axis + 2] - pads[axis] - pads[axis + rank])
    y = y.relu() if relu else y
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return {"y": y.detach().numpy()} | {f"{name}.grad": leaf.grad.numpy() for name, leaf in leaves.items()}


def in_blocks(program: onnxgrad.Program) -> ir.Model:
    assert BLOCK is not None
    model = program.executable()
    BlockConvolutions(BLOCK).call(model)
    return model


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def blocked(model: ir.Model) -> list[str]:
    """The convolutions that are in blocks: forward ones by their node's name, gradients by `x` or `w`."""
    found = []
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN and node.op_type == "Conv":
            within = node.graph is not model.graph or max(node.attributes.get_ints("kernel_shape")) > 9
            found.append("dw" if within else "dx" if ".grad/" in str(node.name) else "y")
    return sorted(found)


SAME = [1, 1, 1, 1]
CASES: list[tuple[list[int | str], tuple[int, ...], str, dict[str, Any], list[str]]] = [
    ([2, 32, 14, 13], (48, 32, 3, 3), "Conv", {"pads": SAME}, ["dw", "dx", "y"]),
    (["n", 32, 14, 13], (16, 32, 3, 3), "Conv", {"pads": SAME}, ["dw", "dx", "y"]),
    ([3, 28, 15, 12], (44, 28, 3, 3), "Conv", {"pads": [0, 1, 2, 1]}, ["dw", "dx", "y"]),
    ([2, 3, 30, 31], (16, 3, 7, 7), "Conv", {"pads": [3, 3, 3, 3], "strides": [2, 2]}, ["dw", "y"]),
    ([2, 32, 17, 16], (32, 32, 3, 3), "Conv", {"pads": SAME, "strides": [2, 2]}, ["dw", "y"]),
    ([2, 32, 18, 16], (32, 32, 3, 3), "Conv", {"pads": SAME, "strides": [2, 2]}, ["dw", *["dx"] * 4, "y"]),
    ([2, 16, 30, 21], (32, 16, 2, 3), "Conv", {"strides": [3, 2]}, ["dw", "y"]),
    ([2, 32, 18, 20], (16, 32, 3, 3), "Conv", {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, ["dw", "dx", "y"]),
    ([2, 32, 14, 14], (32, 1, 3, 3), "Conv", {"pads": SAME, "group": 32}, ["dw", "dx", "y"]),
    (["n", 12, 14, 14], (12, 1, 3, 3), "Conv", {"pads": SAME, "group": 12}, ["dw", "dx", "y"]),
    ([3, 20, 19, 18], (20, 1, 5, 3), "Conv", {"pads": [2, 1, 2, 1], "strides": [2, 2], "group": 20}, ["dw", "dx", "y"]),
    ([2, 16, 30, 31], (16, 1, 3, 3), "Conv", {"strides": [3, 2], "group": 16}, ["dw", "dx", "y"]),
    (
        ["n", 16, 20, 20],
        (16, 1, 3, 3),
        "Conv",
        {"strides": [2, 2], "dilations": [2, 1], "group": 16},
        ["dw", "dx", "y"],
    ),
    ([2, 16, 11, 11], (64, 16, 3, 3), "Conv", {"pads": [2, 1, 0, 1]}, ["dw", "dx", "y"]),
    ([2, 32, 10, 11], (32, 16, 3, 3), "ConvTranspose", {"pads": SAME}, ["dw", "dx", "y"]),
    ([2, 16, 10, 11], (16, 28, 2, 2), "ConvTranspose", {"strides": [2, 2]}, ["dw", "dx", *["y"] * 4]),
    ([2, 32, 11, 10], (32, 16, 4, 5), "ConvTranspose", {"strides": [2, 3], "pads": [1, 0, 1, 1]}, ["dw", "dx"]),
    (
        ["n", 32, 11, 10],
        (32, 16, 4, 5),
        "ConvTranspose",
        {"strides": [2, 3], "pads": [1, 1, 1, 1]},
        ["dw", "dx", *["y"] * 6],
    ),
    ([2, 28, 30], (28, 16, 4), "ConvTranspose", {"strides": [2], "pads": [1, 1]}, ["dw", "dx", "y", "y"]),
    ([2, 32, 50], (16, 32, 3), "Conv", {"pads": [1, 1]}, ["dw", "dx", "y"]),
    (["n", 2, 90], (16, 2, 5), "Conv", {"pads": [2, 1], "strides": [3]}, ["dw", "y"]),
    (["n", 16, 90], (16, 1, 9), "Conv", {"pads": [4, 4], "group": 16}, ["dw", "dx", "y"]),
    ([3, 16, 90], (16, 1, 4), "Conv", {"strides": [2], "dilations": [3], "group": 16}, ["dw", "dx", "y"]),
    ([2, 32, 50], (32, 16, 3), "ConvTranspose", {"pads": [1, 1]}, ["dw", "dx", "y"]),
    (
        [2, 16, 10, 11],
        (16, 1, 3, 3),
        "ConvTranspose",
        {"strides": [2, 2], "pads": SAME, "output_padding": [1, 1], "group": 16},
        ["dw", "dx", "y"],
    ),
    (["n", 64, 12, 13], (64, 16, 3, 3), "Conv", {"pads": SAME, "group": 4}, [*["dw"] * 16, "dx", "y"]),
    ([3, 32, 12, 13], (64, 16, 3, 3), "Conv", {"pads": [0, 1, 2, 1], "group": 2}, [*["dw"] * 16, "dx", "y"]),
    ([2, 12, 22, 13], (28, 3, 3, 3), "Conv", {"strides": [2, 1], "group": 4}, ["dw"] * 3),
    (["n", 8, 14, 14], (16, 1, 3, 3), "Conv", {"pads": SAME, "dilations": [1, 2], "group": 8}, ["dw"]),
    ([2, 32, 40], (32, 4, 5), "Conv", {"pads": [2, 2], "group": 8}, ["dw"] * 4),
    ([2, 16, 12, 13], (16, 2, 3, 3), "ConvTranspose", {"strides": [2, 2], "pads": SAME, "group": 4}, ["dw"] * 2),
    ([2, 16, 6, 7, 8], (28, 16, 3, 3, 3), "Conv", {"pads": [1] * 6}, ["dw", *["dx"] * 3, *["y"] * 3]),
    (["n", 32, 4, 8, 7], (32, 32, 3, 3, 2), "Conv", {"pads": [1, 1, 1, 1, 1, 0]}, ["dw", *["dx"] * 3, *["y"] * 3]),
    (
        ["n", 28, 7, 9, 11],
        (16, 28, 3, 3, 2),
        "Conv",
        {"pads": [2, 0, 1, 1, 1, 1], "strides": [1, 2, 1], "dilations": [2, 1, 3]},
        ["dw", "y", "y", "y"],
    ),
    ([2, 16, 9, 9, 9], (16, 16, 3, 3, 3), "Conv", {"pads": [1] * 6, "strides": [2, 2, 2]}, ["y"] * 3),
    ([1, 3, 5, 8, 8], (48, 3, 3, 3, 3), "Conv", {"pads": [0, 1, 1, 2, 1, 1]}, ["dw"]),
    (["n", 32, 6, 8, 8], (16, 32, 1, 3, 3), "Conv", {"pads": [0, 1, 1, 0, 1, 1]}, ["dw", "dx", "y"]),
    ([2, 16, 3, 8, 8], (16, 16, 3, 3, 3), "Conv", {"pads": [4, 1, 1] * 2, "dilations": [4, 1, 1]}, ["dw"]),
    (
        ["n", 32, 5, 6, 7],
        (32, 16, 3, 2, 3),
        "ConvTranspose",
        {"pads": [1, 0, 1, 2, 1, 0], "dilations": [2, 1, 1]},
        ["dw", *["dx"] * 3, *["y"] * 3],
    ),
    ([2, 32, 4, 5, 6], (32, 16, 2, 2, 2), "ConvTranspose", {"strides": [2, 2, 2]}, ["dx", "dx"]),
    (["n", 32, "h", "w"], (48, 32, 3, 3), "Conv", {"pads": [1, 1, 0, 2]}, ["dw", "dx", "y"]),
    ([2, 28, "h", 12], (32, 28, 3, 2), "Conv", {"dilations": [1, 2]}, ["dw", "y"]),
    (["n", 32, "h", "w"], (16, 32, 3, 3), "Conv", {"strides": [2, 2], "pads": SAME}, ["y"]),
    (["n", 3, "h", "w"], (16, 3, 7, 7), "Conv", {"pads": [3, 3, 3, 3]}, ["dw", "y"]),
    (["n", 32, "h", "w"], (32, 1, 3, 3), "Conv", {"pads": SAME, "group": 32}, ["dx", "y"]),
    (["n", 32, "w"], (16, 32, 5), "Conv", {"pads": [2, 1]}, ["dw", "dx", "y"]),
]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("x", "w", "op_type", "attributes", "forms"), CASES, ids=str)
def test_against_pytorch(
    x: list[int | str], w: tuple[int, ...], op_type: str, attributes: dict[str, Any], forms: list[str], relu: bool
) -> None:
    model = convolution(x, w, op_type, relu=relu, **attributes)
    program = onnxgrad.compile(model, wrt=["x", "w", "b"])
    laid_out = in_blocks(program)
    for sizes in ({"n": 3, "h": 14, "w": 11}, {"n": 1, "h": 9, "w": 40}):
        rng = np.random.default_rng(1)
        signal = rng.standard_normal([sizes[dim] if isinstance(dim, str) else dim for dim in x], np.float32)
        y = run(ir.from_proto(model), {"x": signal})["y"]
        dy = rng.standard_normal(y.shape, np.float32)
        results = run(laid_out, {"x": signal, "y.grad_output": dy, **program.parameters})
        for name, want in expected(model, signal, dy, op_type, relu, attributes).items():
            error = np.abs(results[name] - want).max() / np.abs(want).max()
            assert error < TOLERANCE, f"{name}, {signal.shape}: {error:.1e}"
    assert blocked(laid_out) == forms


def test_a_batch_without_samples() -> None:
    for w, group in [((32, 32, 3, 3), 1), ((32, 1, 3, 3), 32), ((32, 16, 3, 3), 2), ((32, 32, 3, 3, 3), 1)]:
        size = [14] * (len(w) - 2)
        model = convolution(["n", 32, *size], w, pads=SAME[:2] * len(size), group=group)
        program = onnxgrad.compile(model, wrt=["x", "w"])
        laid_out = in_blocks(program)
        assert sorted({*blocked(laid_out)}) == ["dw", "dx", "y"]
        empty = np.zeros((0, 32, *size), np.float32)
        results = run(laid_out, {"x": empty, "y.grad_output": empty, **program.parameters})
        assert results["y"].shape == results["x.grad"].shape == empty.shape
        assert not results["w.grad"].any()


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ([2, 32, 14, 14], (16, 32, 1, 1), {}),
        ([2, 8, 14, 14], (8, 8, 3, 3), {}),
        ([2, 6, 14, 14], (6, 1, 3, 3), {"group": 6}),
        ([2, 24, 14, 14], (32, 12, 3, 3), {"group": 2}),
        ([2, 32, "d", 14, 14], (32, 32, 3, 3, 3), {}),
        ([2, 8, 5, 6, 7], (16, 8, 3, 3, 3), {}),
        ([2, 32, 5, 6, 7], (32, 16, 3, 3, 3), {"group": 2}),
        ([2, 32, 5, 6, 7], (16, 32, 1, 1, 1), {}),
        ([2, 32, 5, 6, 7], (16, 32, 3, 1, 1), {}),
    ],
    ids=str,
)
def test_what_gains_nothing_stays(x: list[int | str], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    laid_out = in_blocks(onnxgrad.compile(convolution(x, w, **attributes), wrt=["w"]))
    assert [form for form in blocked(laid_out) if form != "dw"] == []


@pytest.mark.parametrize(("size", "forms"), [(10, ["dw"]), (6, [])])
def test_gradients_larger_than_the_signals(size: int, forms: list[str]) -> None:
    """Gradients of single samples are added up unless those are far larger than the samples."""
    model = convolution([2, 64, size, size], (128, 64, 3, 3), pads=SAME, strides=[2, 2])
    laid_out = in_blocks(onnxgrad.compile(model, wrt=["w"]))
    assert [form for form in blocked(laid_out) if form == "dw"] == forms


def test_a_transposed_convolution_by_a_constant() -> None:
    """The gradient of averages over windows that overlap. A Conv by a constant the runtime lays out itself."""
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> g (float[n, 32, 14, 14] x) => (float[n, 32, 7, 7] y)'
        "{ y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x) }"
    )
    laid_out = in_blocks(onnxgrad.compile(model, wrt=["x"]))
    assert "ConvTranspose" not in {node.op_type for node in laid_out.graph}
    for batch in (3, 1, 0):
        x = torch.randn(batch, 32, 14, 14, requires_grad=True)
        y = torch.nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        dy = torch.randn_like(y)
        results = run(laid_out, {"x": x.detach().numpy(), "y.grad_output": dy.numpy()})
        np.testing.assert_allclose(results["x.grad"], torch.autograd.grad(y, x, dy)[0], atol=1e-6)


def test_float64_stays() -> None:
    program = onnxgrad.compile(convolution([2, 32, 14, 14], (32, 32, 3, 3)), wrt=["w"])
    model = program.executable()
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.dtype == ir.DataType.FLOAT:
            value.dtype = ir.DataType.DOUBLE
    assert BLOCK is not None
    assert not BlockConvolutions(BLOCK).call(model).modified


def test_a_signal_that_serves_two_convolutions_is_laid_out_once() -> None:
    model = convolution([2, 32, 14, 14], (32, 1, 3, 3), pads=SAME, group=32)
    laid_out = in_blocks(onnxgrad.compile(model, wrt=["x", "w"]))
    read = [node.inputs[0] for node in laid_out.graph if node.op_type == "ReorderInput"]
    assert len(read) == len(set(read))


def test_a_gradient_whose_signals_are_gone_stays() -> None:
    program = onnxgrad.compile(convolution([2, 32, 14, 14], (32, 32, 3, 3)), wrt=["w"])
    (last,) = (node for node in program.model.graph if CORRELATION in node.metadata_props)
    last.metadata_props[CORRELATION] = last.metadata_props[CORRELATION].replace('"x"', '"elsewhere"')
    assert blocked(in_blocks(program)) == ["y"]


@pytest.mark.parametrize("batch", ["n", 3])
def test_a_seed_with_the_channels_last(batch: int | str) -> None:
    """Of its transpositions one is left, which serves both gradients: that of the kernel is described by it."""
    model = convolution([batch, 32, 14, 14], (32, 1, 7, 7), pads=[3] * 4, group=32)
    (last,) = (node for node in model.graph.node if node.op_type == "Identity")
    last.op_type = "Transpose"
    last.attribute.append(onnx.helper.make_attribute("perm", [0, 2, 3, 1]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    program = onnxgrad.compile(onnx.shape_inference.infer_shapes(model), wrt=["x", "w"])
    laid_out = in_blocks(program)
    assert blocked(laid_out) == ["dw", "dx", "y"]
    rng = np.random.default_rng(1)
    signal, dy = (rng.standard_normal([3, 32, 14, 14], np.float32) for _ in range(2))
    feeds = {"x": signal, "y.grad_output": dy.transpose(0, 2, 3, 1), **program.parameters}
    results = run(laid_out, feeds)
    attributes = {"pads": [3] * 4, "group": 32}
    for name, want in expected(model, signal, dy, "Conv", False, attributes).items():
        got = results[name].transpose(0, 3, 1, 2) if name == "y" else results.get(name)
        if got is not None:
            assert np.abs(got - want).max() < TOLERANCE * np.abs(want).max(), name


def test_sessions_use_it_where_they_may() -> None:
    program = onnxgrad.compile(convolution([2, 32, 14, 14], (32, 32, 3, 3), pads=SAME), wrt=["x", "w"])
    operators = {}
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.enable_profiling = True
        session = program.session(providers=["CPUExecutionProvider"], options=options)
        session.grad({"x": np.ones((2, 32, 14, 14), np.float32)}, {"y": np.ones((2, 32, 14, 14), np.float32)})
        path = session.executor("grad", outputs=[]).end_profiling()
        operators[level] = "ReorderInput" in path.read_text()
        path.unlink()
    assert operators == {
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL: True,
        ort.GraphOptimizationLevel.ORT_ENABLE_BASIC: False,
    }
