"""Scan of opset 8, which has a batch axis, against the runtime's own reading of it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnxgrad
from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.upgrade_opset import UpgradeOpset

from .old_models import run_named, sample, upgraded_text

RUNNING_SUMS = """
    g (float[{batch}, 3] start, float[{batch}, 5, 3] forth, float[{batch}, 5, 2] back)
      => (float[{batch}, 3] end, float[{batch}, 5, 3] all)
    {{
      end, all = Scan <num_scan_inputs = 2, directions = [0, 1], body = step
        (float[3] sum, float[3] x, float[2] y) => (float[3] next, float[3] given)
        {{
          part = ReduceSum <axes = [0], keepdims = 1> (y)
          scaled = Mul (x, part)
          next = Add (sum, scaled)
          given = Tanh (next)
        }}
      > ("", start, forth, back)
    }}
"""


@pytest.mark.parametrize("batch", ["4", "n"])
def test_a_scan_over_a_batch(batch: str) -> None:
    text = RUNNING_SUMS.format(batch=batch)
    proto = onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["" : 8]> {text}')
    feeds = {"start": sample(4, 3), "forth": sample(4, 5, 3), "back": sample(4, 5, 2)}
    expected = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    for actual, wanted in zip(run_named(upgraded_text(text, 8), **feeds), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)

    program = onnxgrad.compile(proto, wrt=["forth"], outputs=["end"])
    gradient = onnxgrad.Session(program).grad(feeds, {"end": np.ones((4, 3), np.float32)})
    parts = feeds["back"][:, ::-1].sum(2, keepdims=True)
    np.testing.assert_allclose(gradient["forth"], np.broadcast_to(parts, (4, 5, 3)), rtol=1e-5)


def test_sequence_lengths_are_refused() -> None:
    text = RUNNING_SUMS.format(batch="4").replace("(float[4, 3] start", "(int64[4] lengths, float[4, 3] start")
    text = text.replace('("", start', "(lengths, start")
    model = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 7, opset_import: ["" : 8]> {text}'))
    with pytest.raises(UnsupportedError, match="sequence lengths"):
        UpgradeOpset()(model)
