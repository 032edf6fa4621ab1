"""A node that waits for another, where no order of the file frees a large value early."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.differentiate import PASS
from onnxgrad.passes.execution_order import execution_order
from onnxgrad.passes.peak_memory import estimate_peak
from onnxgrad.passes.schedule import Schedule
from tests.compiler.test_large_vocabulary import batch, language_model

from .running import check_pass, parse

TIED = """g (float[64, 16] x, float[64, 16384] scores) => (float[16384, 16] table, float[64, 16] w0, float[64, 16] w1) {
    large = Exp (scores)
    dh = MatMul (large, rows)
    product = Gemm <transA = 1> (large, x)
    p1 = MatMul (dh, m)
    p2 = Exp (p1)
    w1 = MatMul (p2, m)
    p3 = MatMul (p2, m)
    wide = MatMul (p3, across)
    deep = MatMul (wide, rows)
    w0 = MatMul (deep, m)
    index = Cast <to = 7> (zero)
    table = ScatterElements <axis = 0, reduction = "add"> (product, index, deep)
}"""


def tied(backward: bool = True) -> ir.Model:
    """The product of the largest value is read at the end, and every other reader of it leads there."""
    generator = np.random.default_rng(0)
    shapes = {"rows": (16384, 16), "m": (16, 16), "across": (16, 16384)}
    weights = {name: generator.standard_normal(shape, dtype=np.float32) / 64 for name, shape in shapes.items()}
    model = parse(TIED, initializers={**weights, "zero": np.zeros((64, 16), np.float32)})
    for node in model.graph:
        if backward:
            node.metadata_props[PASS] = "differentiate"
    return model


FEEDS = {"x": np.ones((64, 16), np.float32), "scores": np.zeros((64, 16384), np.float32)}


def test_the_peak_falls_and_the_values_stay() -> None:
    model = tied()
    before = estimate_peak(model.graph).bytes
    assert check_pass(Schedule(forward=[]), model, FEEDS)
    order = [node.outputs[0].name for node in execution_order(model.graph)]
    assert order.index("product") < order.index("p1")
    assert estimate_peak(model.graph).bytes <= before - 0.7 * 64 * 16384 * 4
    assert not Schedule(forward=[]).call(model).modified


@pytest.mark.parametrize("forward", [None, ["dh"]])
def test_only_the_backward_part_waits(forward: list[str] | None) -> None:
    model = tied()
    nodes = len(model.graph)
    Schedule(forward=forward).call(model)
    assert len(model.graph) == nodes


def test_a_forward_part_never_waits_for_gradients() -> None:
    model = tied(backward=False)
    nodes = len(model.graph)
    Schedule(forward=[]).call(model)
    assert len(model.graph) == nodes


@pytest.mark.parametrize("mode", ["grad", "accumulate"])
def test_gradients_of_a_tied_table_with_checkpoints(mode: str) -> None:
    """Layers between the scores and the table, so much larger than these that the order matters."""
    dims = {"B": 8, "T": 256}
    model = _deep(language_model())
    plain = onnxgrad.compile(model, loss="cross_entropy", free_dims=dims)
    program = onnxgrad.compile(model, loss="cross_entropy", checkpoint="auto", free_dims=dims, mode=mode)
    assert any("/wait" in str(node.name) for node in program.model.graph)
    assert not any("/wait" in str(node.name) for node in program.forward(loss=True).graph)
    session = program.session(providers=["CPUExecutionProvider"])
    feeds = batch(8, 256)
    expected = plain.session(providers=["CPUExecutionProvider"]).grad(feeds)
    session.backward(feeds)
    fresh = session.grad(feeds)
    for name, gradient in expected.items():
        np.testing.assert_allclose(fresh[name], gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
        np.testing.assert_allclose(session.grads[name], gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    assert estimate_peak(program.model.graph).bytes < estimate_peak(plain.model.graph).bytes - 2_000_000


def _deep(model: onnx.ModelProto) -> onnx.ModelProto:
    """With a chain of layers in the place of the one Tanh."""
    (node,) = [node for node in model.graph.node if node.op_type == "Tanh"]
    value, layers = node.input[0], []
    for index in range(12):
        layers += [
            onnx.helper.make_node("MatMul", [value, "inner"], [f"m{index}"]),
            onnx.helper.make_node("Exp", [f"m{index}"], [f"e{index}"]),
            onnx.helper.make_node("Sin", [f"e{index}"], [f"s{index}"]),
        ]
        value = f"s{index}"
    node.input[0] = value
    place = list(model.graph.node).index(node)
    nodes = [*model.graph.node[:place], *layers, *model.graph.node[place:]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
