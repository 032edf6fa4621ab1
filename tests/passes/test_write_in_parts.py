"""WriteInParts: Softmax and LogSoftmax along another axis than the last. Swish and norms: test_raise_swish."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

import onnxgrad
from onnxgrad.passes.write_in_parts import WriteInParts
from tests.compiler import forward_models

from .running import check_pass, parse

FUNCTIONS = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax}


@pytest.mark.parametrize("operator", FUNCTIONS)
@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 6, 3), 1), ((3, 32), 0), ((2, 3, 4, 16), -2)])
def test_values_stay(operator: str, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 30
    x[0, 0] = -np.inf  # of one element of each sum
    dims = ",".join(map(str, shape))
    model = parse(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = {operator} <axis = {axis}> (x) }}")
    assert check_pass(WriteInParts(), model, {"x": x}, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("operator", FUNCTIONS)
def test_symbolic_dims_and_gradients_are_those_of_torch(operator: str) -> None:
    text = f"g (double[n,4,h,w] x) => (double[n,4,h,w] y) {{ y = {operator} <axis = 1> (x) }}"
    program = onnxgrad.compile(forward_models.parse(text, {}), wrt="x")
    assert operator not in {node.op_type for node in program.model.graph}
    random = np.random.default_rng(1)
    x, dy = random.standard_normal((2, 4, 3, 5)), random.standard_normal((2, 4, 3, 5))
    expected = torch.tensor(x, requires_grad=True)
    FUNCTIONS[operator](expected, 1).backward(torch.tensor(dy))
    gradient = program.session().grad({"x": x}, {"y": dy})["x"]
    np.testing.assert_allclose(gradient, expected.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "declaration",
    [
        "float[2,3,4] x) => (float[2,3,4] y",
        "float[9,2,1] x) => (float[9,2,1] y",
        "float16[4,32] x) => (float16[4,32] y",
    ],
    ids=["short rows", "one element", "float16"],
)
def test_where_the_kernel_suits_it_stays(declaration: str) -> None:
    assert not WriteInParts().call(parse(f"g ({declaration}) {{ y = Softmax <axis = 0> (x) }}")).modified
    assert not WriteInParts().call(parse("g (float[4,32] x) => (float[4,32] y) { y = Softmax (x) }")).modified


def test_a_loss_per_pixel_computes_its_exponentials_once() -> None:
    text = "g (float[2,4,8,8] x, float[4,4,1,1] w) => (float[2,4,8,8] y) { y = Conv (x, w) }"
    program = onnxgrad.compile(forward_models.parse(text, {}), wrt="w", loss="cross_entropy")
    counts = Counter(node.op_type for node in program.model.graph)
    assert (counts["Exp"], counts["ReduceMax"], counts["LogSoftmax"], counts["Softmax"]) == (1, 1, 0, 0)
