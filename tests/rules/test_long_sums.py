"""float16: sums over 100,000 terms come out as exact as one rounding, though a running float16 sum would stop."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxgrad

ROWS = 100_000
WIDTH = 4
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (ROWS, WIDTH)).astype(np.float16)
SEED = RNG.uniform(0, 0.02, (ROWS, WIDTH)).astype(np.float16)
IDS = RNG.integers(0, 2, ROWS)
VECTOR, SQUARE = np.ones(WIDTH, np.float16), np.eye(WIDTH, dtype=np.float16)


def compiled(text: str, **weights: np.ndarray) -> onnxgrad.Program:
    model = ir.from_onnx_text(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    (graph,) = model.graphs()
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in weights:
                known = graph.initializers.get(value.name)
                if known is None:
                    array = weights[value.name]
                    known = ir.Value(name=value.name, const_value=ir.tensor(array, name=value.name))
                    known.type, known.shape = ir.TensorType(ir.DataType.FLOAT16), ir.Shape(array.shape)
                    graph.register_initializer(known)
                node.replace_input_with(index, known)
    return onnxgrad.compile(model, wrt=list(weights))


def normalized(x: np.ndarray, axis: int) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)


def of_ids() -> np.ndarray:
    table = np.zeros((2, WIDTH))
    np.add.at(table, IDS, SEED.astype(np.float64))
    return table


WIDE_X, WIDE_SEED = X.astype(np.float64), SEED.astype(np.float64)
IN, OUT = f"float16[n,{WIDTH}] x", f"float16[n,{WIDTH}] y"
CASES = {
    "bias": (f"g ({IN}) => ({OUT}) {{ y = Add (x, w) }}", VECTOR, WIDE_SEED.sum(0)),
    "factor": (f"g ({IN}) => ({OUT}) {{ y = Mul (x, w) }}", VECTOR, (WIDE_SEED * WIDE_X).sum(0)),
    "matrix": (f"g ({IN}) => ({OUT}) {{ y = MatMul (x, w) }}", SQUARE, WIDE_X.T @ WIDE_SEED),
    "gemm": (f"g ({IN}) => ({OUT}) {{ y = Gemm (x, e, w) }}", VECTOR, WIDE_SEED.sum(0)),
    "layer norm": (
        f"g ({IN}) => ({OUT}) {{ y = LayerNormalization (x, w) }}",
        VECTOR,
        (WIDE_SEED * normalized(WIDE_X, 1)).sum(0),
    ),
    "embedding": (f"g (int64[n] ids, {IN}) => ({OUT}) {{ y = Gather (w, ids) }}", np.ones((2, WIDTH)), of_ids()),
    "convolution": (
        f"g (float16[n,{WIDTH},1] x) => (float16[n,{WIDTH},1] y) {{ y = Conv (x, e, w) }}",
        VECTOR,
        WIDE_SEED.sum(0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_sums_over_the_batch(case: str) -> None:
    text, weight, expected = CASES[case]
    constants = {"e": SQUARE[:, :, None] if case == "convolution" else SQUARE} if " e," in text else {}
    weights = {"w": weight.astype(np.float16), **constants}
    session = compiled(text, **weights).session(providers=["CPUExecutionProvider"])
    feeds = {"x": X, "ids": IDS} if case == "embedding" else {"x": X}
    seed = SEED
    if case == "convolution":
        feeds, seed = {"x": X[:, :, None]}, SEED[:, :, None]
    feeds = {name: feeds[name] for name in feeds if f" {name}" in text.split("=>")[0]}
    gradient = session.grad(feeds, {"y": seed})["w"]
    assert gradient.dtype == np.float16
    np.testing.assert_allclose(gradient.astype(np.float64), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
