"""Exports that ONNX Runtime has optimized, with fused operators of its own, have the gradients of the plain ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad

from ..zoo.exports import EXPORTS, OUTPUT, Export
from ..zoo.gradients import is_zero

FUSED = {
    "bert-dynamo-dynamic": {"BiasGelu", "FusedGemm", "FusedMatMul", "SkipLayerNormalization"},
    "gpt2-dynamo-static": {"FastGelu", "FusedMatMul", "SkipLayerNormalization"},
    "llama-dynamo-static": {"FusedMatMul", "QuickGelu"},
    "resnet_basic-torchscript-static": {"FusedConv"},
}


@pytest.mark.parametrize("name", FUSED)
def test_gradients_of_an_optimized_export(name: str, exported: Callable[[Export], Path], tmp_path: Path) -> None:
    (export,) = (export for export in EXPORTS if export.name == name)
    plain, optimized = exported(export), tmp_path / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
    fused = {node.op_type for node in onnx.load(optimized).graph.node if node.domain == "com.microsoft"}
    assert fused >= FUSED[name], "the runtime no longer fuses what this test is about"

    feeds = {name: value.numpy() for name, value in export.architecture.example().items()}
    expected_session, session = (onnxgrad.compile(file).session() for file in (plain, optimized))
    output = expected_session.run(feeds)[OUTPUT]
    seed = {OUTPUT: np.random.default_rng(0).standard_normal(output.shape, dtype=np.float32)}
    expected, gradients = expected_session.grad(feeds, seed), session.grad(feeds, seed)

    np.testing.assert_allclose(session.run(feeds)[OUTPUT], output, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    largest = max(np.linalg.norm(gradient) for gradient in expected.values())
    for parameter, gradient in expected.items():
        if is_zero(parameter):
            assert max(np.linalg.norm(gradients[parameter]), np.linalg.norm(gradient)) <= 1e-6 * largest, parameter
        else:
            scale = max(np.linalg.norm(gradient), 1e-3 * largest)
            assert np.linalg.norm(gradients[parameter] - gradient) <= 1e-5 * scale, parameter
