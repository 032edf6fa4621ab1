"""CrossEntropy(chunk=…): the plain loss and its gradients, without the scores of all samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.compiler.losses import CrossEntropy
from onnxgrad.passes.subgraphs import all_graphs

CLASSES = 11
PRODUCTS = {
    "matmul": ("s = MatMul (x, w)  logits = Reshape (s, shape)", (6, CLASSES)),
    "add": ("s = MatMul (x, w)  logits = Add (bias, s)", (6, CLASSES)),
    "gemm": ("logits = Gemm <transB = 1> (x, w, bias)", (CLASSES, 6)),
}


def forward_model(product: str, samples: int | str, dtype: str = "float") -> ir.Model:
    body, shape = PRODUCTS[product]
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({dtype}[{samples},6] input) => ({dtype}[{samples},{CLASSES}] '
        f"logits) <int64[2] shape = {{-1, {CLASSES}}}> {{ x = Tanh (input)  {body} }}"
    )
    weights = {"w": rng.standard_normal(shape), "bias": rng.standard_normal(CLASSES)}
    for name, array in weights.items():
        tensor = ir.tensor(array.astype({"float": np.float32, "float16": np.float16}[dtype]), name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))
        readers = [(n, i) for n in model.graph for i, read in enumerate(n.inputs) if read and read.name == name]
        for node, index in readers:
            node.replace_input_with(index, value)
        if readers:
            model.graph.register_initializer(value)
    return model


def value_and_grad(model: ir.Model, samples: int, **options: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(samples)
    dtype = model.graph.inputs[0].dtype
    assert dtype is not None
    x = rng.standard_normal((samples, 6)).astype(dtype.numpy())
    labels = rng.integers(0, CLASSES, samples)
    labels[1] = -100
    program = onnxgrad.compile(model, loss=CrossEntropy(**options), wrt=["w", "input"])
    seed = {"loss": np.arange(samples).astype(x.dtype)} if options.get("reduction") == "none" else None
    outputs, gradients = program.session().value_and_grad({"input": x, "labels": labels}, seed)
    assert ("logits" in outputs) == (options.get("chunk", 0) == 0)
    return outputs["loss"], gradients


@pytest.mark.parametrize("options", [{}, {"weight": list(range(1, CLASSES + 1))}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("product", "dim", "samples"), [("matmul", "n", 10), ("add", 8, 8), ("gemm", "n", 3)])
def test_the_plain_loss(product: str, dim: int | str, samples: int, reduction: str, options: dict[str, Any]) -> None:
    options = {"reduction": reduction, **options}
    expected, wanted = value_and_grad(forward_model(product, dim), samples, **options)
    loss, gradients = value_and_grad(forward_model(product, dim), samples, chunk=4, **options)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, gradient in wanted.items():
        assert np.abs(gradients[name] - gradient).max() < 1e-5 * np.abs(gradient).max()


def test_float16_losses_are_summed_in_float32() -> None:
    expected, _ = value_and_grad(forward_model("gemm", "n"), 30_000)
    loss, _ = value_and_grad(forward_model("gemm", "n", "float16"), 30_000, chunk=256)
    assert loss.dtype == np.float16
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def test_the_scores_of_all_samples_do_not_exist() -> None:
    program = onnxgrad.compile(forward_model("gemm", 20), loss=CrossEntropy(chunk=5))
    shapes = [v.shape for graph in all_graphs(program.model.graph) for n in graph for v in n.outputs if v.shape]
    assert not any(list(shape) == [20, CLASSES] for shape in shapes)


def test_scores_that_are_no_product_are_refused() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[4,6] input) => (float[4,6] scores) { scores = Tanh (input) }'
    )
    with pytest.raises(onnxgrad.InputError, match=r"chunk.*'scores'.*MatMul or Gemm"):
        onnxgrad.compile(model, loss=CrossEntropy(chunk=2), wrt="inputs")
    with pytest.raises(onnxgrad.InputError, match="chunk is a number of samples"):
        CrossEntropy(chunk=-1)
