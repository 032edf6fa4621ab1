"""No value of a joint graph is many times as large as what goes in and comes out: at sizes that would tell."""

from __future__ import annotations

from math import prod

import onnx
import pytest

import onnxgrad

AXIS = "a = Constant <value = int64[1] {1}> ()"
CASES = {
    "matrix chain": (
        "float[256, 256] x, float[256, 256] z, float[256, 256] w",
        'y = Einsum <equation = "ij,jk,kl->il"> (x, z, w)',
    ),
    "scores of heads": (
        "float[2, 512, 8, 64] x, float[2, 512, 8, 64] z",
        'y = Einsum <equation = "bqhd,bkhd->bhqk"> (x, z)',
    ),
    "long linear resizing": (
        "float[1, 64, 20000] x",
        's = Constant <value = float[3] {1.0, 1.0, 1.5}> () y = Resize <mode = "linear"> (x, , s)',
    ),
    "long cubic resizing": (
        "float[1, 32, 4, 6000] x",
        's = Constant <value = int64[4] {1, 32, 4, 9001}> () y = Resize <mode = "cubic"> (x, , , s)',
    ),
    "global pooling by a large kernel": (
        "float[4, 1280, 5, 5] x",
        "y = AveragePool <kernel_shape = [1280, 1280], strides = [1280, 1280], ceil_mode = 1> (x)",
    ),
    "long pooling": ("float[1, 4, 200000] x", "y = AveragePool <kernel_shape = [512], strides = [256]> (x)"),
    "long maximum pooling": ("float[1, 4, 200000] x", "y = MaxPool <kernel_shape = [3], strides = [1]> (x)"),
    "long running sum": ("float[4, 100000] x", "a = Constant <value = int64 {1}> () y = CumSum (x, a)"),
    "long product": ("float[4, 50000] x", f"{AXIS} y = ReduceProd (x, a)"),
    "long log-sum-exp": ("float[4, 50000] x", f"{AXIS} y = ReduceLogSumExp (x, a)"),
    "many classes": ("float[64, 30000] x, int64[64] i", "y = SoftmaxCrossEntropyLoss (x, i)"),
    "large table": ("float[50000, 64] x, int64[8, 128] i", "y = Gather (x, i)"),
    "rows by tuples": ("float[5000, 64] x, int64[9000, 1] i", "y = GatherND (x, i)"),
    "elements of rows": ("float[64, 30000] x, int64[64, 5] i", "y = GatherElements <axis = 1> (x, i)"),
    "many tiles": ("float[4, 500] x", "r = Constant <value = int64[2] {300, 2}> () y = Tile (x, r)"),
    "reflected margins": (
        "float[4, 50000] x",
        'p = Constant <value = int64[4] {0, 20000, 0, 20000}> () y = Pad <mode = "reflect"> (x, p)',
    ),
    "large windows": ("float[1, 8, 100000] x, float[8, 8, 501] w", "y = Conv <pads = [250, 250]> (x, w)"),
    "many channels of their own": (
        "float[2, 256, 28, 28] x, float[256, 1, 31, 31] w",
        "y = Conv <pads = [15, 15, 15, 15], group = 256> (x, w)",
    ),
    "neighbouring channels": ("float[2, 512, 14, 14] x", "y = LRN <size = 63> (x)"),
    "largest elements": ("float[8, 100000] x", "k = Constant <value = int64[1] {50}> () y, i = TopK (x, k)"),
    "triangle": ("float[2048, 2048] x", "y = Trilu (x)"),
}


@pytest.mark.parametrize("case", CASES)
def test_no_value_is_many_times_as_large(case: str) -> None:
    inputs, body = CASES[case]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g ({inputs}) => (float y) {{ {body} }}')
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("y"))
    floats = [value.name for value in model.graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    graph = onnxgrad.compile(onnx.shape_inference.infer_shapes(model), wrt=floats).model.graph

    def size(value: object) -> int:
        shape = value.shape  # type: ignore[attr-defined]
        assert shape is not None, f"the rank of {value} is not known"
        return prod(dim for dim in shape if isinstance(dim, int))

    given = max(size(value) for value in (*graph.inputs, *graph.outputs))
    largest = max((value for node in graph.all_nodes() for value in node.outputs), key=size)
    assert size(largest) <= 2.5 * given, f"{largest} of {case}"
