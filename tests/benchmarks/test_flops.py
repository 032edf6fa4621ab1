"""FLOPs of the operators that count, counted by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import parser

from benchmarks.flops import forward_flops

CASES = {
    "(float[2,3,8,8] x, float[5,3,3,3] w) => (float[2,5,6,6] y) { y = Conv(x, w) }": 2 * (2 * 5 * 6 * 6) * 27,
    "(float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv<group = 4>(x, w) }": 2 * (4 * 36) * 9,
    "(float[1,6,4,4] x, float[6,2,2,2] w) => (float[1,2,8,8] y) { y = ConvTranspose<strides = [2, 2]>(x, w) }": 2
    * (6 * 16)
    * 8,
    "(float[7,3] a, float[7,5] b) => (float[3,5] y) { y = Gemm<transA = 1>(a, b) }": 2 * 3 * 5 * 7,
    "(float[4,3,7] a, float[7,5] b) => (float[4,3,5] y) { y = MatMul(a, b) }": 2 * 60 * 7,
    "(float[4,3] a) => (float[4,3] y) { y = Relu(a) }": 0,
}


@pytest.mark.parametrize("graph", CASES)
def test_flops(graph: str, tmp_path: Path) -> None:
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {graph}')
    onnx.save(model, tmp_path / "model.onnx")
    assert forward_flops(tmp_path / "model.onnx") == CASES[graph]


def test_unknown_shapes_are_an_error(tmp_path: Path) -> None:
    graph = "(float[n,3] a, float[3,5] b) => (float[n,5] y) { y = MatMul(a, b) }"
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {graph}')
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="MatMul"):
        forward_flops(tmp_path / "model.onnx")
