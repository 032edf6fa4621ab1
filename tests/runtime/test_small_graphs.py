"""Which graphs count as small."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from onnxgrad.runtime.small_graphs import is_small

LOOP = """
    c = Constant <value = bool {{1}}> ()
    t = Constant <value = int64 {{3}}> ()
    y = Loop (t, c, x) <body = b (int64 i, bool keep, float[{n}] before) => (bool k, float[{n}] after) {{
        k = Identity (keep)
        after = Tanh (before)
    }}>
"""


@pytest.mark.parametrize(
    ("shape", "body", "small"),
    [
        ("64, 64", "y = Tanh (x)", True),
        ("512, 512", "y = Tanh (x)", True),
        ("512, 512", "h = Tanh (x) y = Tanh (h)", False),
        ("N, 64", "y = Tanh (x)", False),
        ("8", LOOP.format(n=8), True),
        ("262144", LOOP.format(n=262144), False),
    ],
)
def test_is_small(shape: str, body: str, small: bool) -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}'
    )
    assert is_small(ir.from_proto(onnx.shape_inference.infer_shapes(proto)).graph) == small
