"""Normalization: what exporters write becomes the form that the rules know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import onnxgrad
from tests.compiler.forward_models import parse, random

# Local response normalization as PyTorch's TorchScript exporter writes it: whether the axis of the window can be
# squeezed away follows from the sizes, once those behind the pool are known.
LOCAL_RESPONSE = """g ({batch}) => (float[n,6,4,5] y) <
    int64[1] axis = {{0}}, int64[1] one = {{1}},
    int64[3] inner = {{6, 4, -1}}, int64[3] outer = {{6, 4, 5}}, int64[1] second = {{1}}, float three = {{3.0}},
    int64[2, 5] padding = {{0, 0, 1, 0, 0, 0, 0, 1, 0, 0}}, int64[1] all = {{-1}}
> {{
    square = Mul (x, x)
    sizes = Shape (x)
    batch = Gather (sizes, axis)
    volume_shape = Concat <axis = 0> (batch, one, inner)
    volume = Reshape (square, volume_shape)
    turned = Transpose (padding)
    back = Transpose (turned)
    pads = Reshape (back, all)
    padded = Pad (volume, pads)
    windows = AveragePool <kernel_shape = [3, 1, 1], strides = [1, 1, 1]> (padded)
    window_sizes = Shape (windows)
    window_axis = Gather (window_sizes, second)
    squeezable = Equal (window_axis, one)
    mean = If (squeezable) <
        then_branch = yes () => (float[A,B,C,D] squeezed) {{ squeezed = Squeeze (windows, second) }},
        else_branch = no () => (float[A,B,C,D,E] same) {{ same = Identity (windows) }}
    >
    image_shape = Concat <axis = 0> (batch, outer)
    image = Reshape (mean, image_shape)
    sum = Mul (image, three)
    y = Mul (x, sum)
}}"""


@pytest.mark.parametrize("batch", ["float[2,6,4,5] x", "float[n,6,4,5] x"], ids=["static", "dynamic"])
def test_branches_that_sizes_decide_are_differentiated(batch: str) -> None:
    program = onnxgrad.compile(parse(LOCAL_RESPONSE.format(batch=batch)), wrt="inputs")
    assert all(node.op_type != "If" for node in program.model.graph)
    x, seed = random(2, 6, 4, 5), random(2, 6, 4, 5, seed=1)
    (gradient,) = program.session().grad({"x": x}, {"y": seed}).values()
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    squares = torch.nn.functional.pad(leaf**2, (0, 0, 0, 0, 1, 1))
    y = leaf * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:])
    y.backward(torch.tensor(seed, dtype=torch.float64))
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-4, atol=1e-5)


def test_an_output_that_becomes_one_operator_stays_an_output() -> None:
    model = parse(
        """g (float[2,3] x) => (float[2,3] y) <int64[1] axis = {1}> {
            largest = ReduceMax (x, axis)
            shifted = Sub (x, largest)
            e = Exp (shifted)
            total = ReduceSum (e, axis)
            y = Div (e, total)
        }"""
    )
    program = onnxgrad.compile(model, wrt="inputs")
    assert [port.name for port in program.signature.outputs] == ["y", "x.grad"]
    assert next(iter(program.model.graph)).op_type == "Softmax"
