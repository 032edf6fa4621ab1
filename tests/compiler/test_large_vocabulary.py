"""A language model whose embedding is its output's weights too: the largest tensors, and the table's gradient."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

import onnxgrad
from onnxgrad.compiler.signature import Mode
from onnxgrad.passes.peak_memory import estimate_peak

VOCABULARY, WIDTH = 701, 16
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, WIDTH), dtype=np.float32)
INNER = np.random.default_rng(1).standard_normal((WIDTH, WIDTH), dtype=np.float32)


def language_model(*, tied: bool = True, table: np.ndarray = TABLE) -> onnx.ModelProto:
    output = "t = Transpose (table)  y = MatMul (b, t)" if tied else "y = MatMul (b, inner)"
    columns = VOCABULARY if tied else WIDTH
    kind = {"float16": "float16", "float32": "float", "float64": "double"}[table.dtype.name]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (int64[B, T] ids) => ({kind}[N, {columns}] logits)'
        f"<int64[2] rows = {{-1, {columns}}}> {{ e = Gather (table, ids)  a = MatMul (e, inner)  b = Tanh (a)"
        f" {output}  logits = Reshape (y, rows) }}"
    )
    for name, array in (("table", table), ("inner", INNER.astype(table.dtype))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """Repeated indices, out of order, some counted from the end; some labels are to be ignored."""
    generator = np.random.default_rng([rows, length])
    ids = generator.integers(-9, 9, (rows, length))
    labels = generator.integers(0, WIDTH, rows * length)
    labels[::5] = -100
    return {"ids": ids, "labels": labels}


def expected(feeds: dict[str, np.ndarray], *, tied: bool) -> dict[str, np.ndarray]:
    table = torch.tensor(TABLE, dtype=torch.float64, requires_grad=True)
    inner = torch.tensor(INNER, dtype=torch.float64, requires_grad=True)
    hidden = torch.tanh(table[torch.from_numpy(feeds["ids"])] @ inner)
    logits = hidden @ (table.T if tied else inner)
    F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(feeds["labels"])).backward()
    assert table.grad is not None
    assert inner.grad is not None
    return {"table": table.grad.numpy(), "inner": inner.grad.numpy()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gradients_in_both_modes(tied: bool, dtype: str) -> None:
    program = onnxgrad.compile(language_model(tied=tied, table=TABLE.astype(dtype)), loss="cross_entropy")
    session = program.session(providers=["CPUExecutionProvider"])
    back = program.with_mode("accumulate").with_mode("grad").session(providers=["CPUExecutionProvider"])
    tolerance = {"float16": 2e-2, "float32": 2e-6, "float64": 1e-12}[dtype]
    if dtype == "float64":
        tolerance = 2e-7  # the model's weights are those of float32, and so are PyTorch's
    for rows, length in ((2, 7), (1, 1), (3, 5)):
        feeds = batch(rows, length)
        if rows == length == 1:
            feeds["labels"][:] = 3
        wanted = expected(feeds, tied=tied)
        session.zero_grad()
        session.backward(feeds)
        session.backward(feeds)
        found = session.grad(feeds), back.grad(feeds), {name: session.grads[name] / 2 for name in wanted}
        for name, gradient in wanted.items():
            for each in found:
                np.testing.assert_allclose(each[name], gradient, rtol=0, atol=tolerance * np.abs(gradient).max())


def test_the_embedding_is_accumulated_in_the_buffer() -> None:
    program = onnxgrad.compile(language_model(tied=False), loss="cross_entropy", mode="accumulate")
    (port,) = [port for port in program.signature.outputs_of("grad_buffer") if port.of == "table"]
    assert port.in_place
    writer = next(value for value in program.model.graph.outputs if value.name == port.name).producer()
    assert writer is not None
    assert writer.op_type == "ScatterElements"
    assert writer.inputs[0] is not None
    assert writer.inputs[0].is_graph_input()


@pytest.mark.parametrize("mode", ["grad", "accumulate"])
def test_the_peak_has_two_tensors_of_the_size_of_the_scores(mode: Mode) -> None:
    """The logits, which are an output, and what becomes of the log-probabilities in place."""
    sizes = {"B": 8, "T": 512}
    program = onnxgrad.compile(language_model(), loss="cross_entropy", mode=mode, assume_dims=sizes)
    peak = estimate_peak(program.model.graph, {**sizes, "N": 8 * 512})
    scores = 8 * 512 * VOCABULARY * 4
    assert [size for _, size in peak.live].count(scores) <= 2
    assert peak.bytes < 2.3 * scores
