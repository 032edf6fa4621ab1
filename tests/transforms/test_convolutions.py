"""The tangent of a convolution's kernel where the windows leave a rest of the signal."""

import pytest

import onnxgrad
from tests.compiler.forward_models import parse, random

from .laws import Evaluator, check_adjoint


@pytest.mark.parametrize("dim", ["4", "N"])
@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(("kernel", "stride", "group"), [(1, 2, 1), (3, 2, 1), (3, 1, 2), (2, 3, 4)])
def test_tangents_of_kernels(kernel: int, stride: int, group: int, size: int, dim: str) -> None:
    model = parse(
        f"""g (float[{dim}, 4, {size}, {size}] x) => (float[{dim}, 8, H, W] y) {{
            y = Conv <strides = [{stride}, {stride}], group = {group}> (x, w)
        }}""",
        {"w": random(8, 4 // group, kernel, kernel)},
    )
    feeds = {"x": random(4, 4, size, size)}
    pushed = onnxgrad.jvp(model, wrt=["x", "w"])
    check = check_adjoint(Evaluator(pushed, onnxgrad.vjp(model, wrt=["x", "w"])), feeds, Evaluator(model)(feeds))
    assert check.error < 1e-6
    assert check.size > 0
