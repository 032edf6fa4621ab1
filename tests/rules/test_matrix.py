"""MatMul and Gemm against their contract."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((3,), (2, 3, 4)),
        ((2, 3), (3,)),
        ((2, 5, 3), (3,)),
        ((2, 3), (3, 4)),
        ((2, 5, 3), (3, 4)),
        ((2, 2, 5, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((2, 5, 3), (2, 3, 4)),
        ((2, 1, 5, 3), (4, 3, 2)),
        ((1, 5, 3), (2, 3, 4)),
        ((2, 5, 3), (1, 3, 4)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_rule("MatMul", [sample(*a), sample(*b, seed=1)], torch_function=torch.matmul)


@pytest.mark.parametrize("index", [0, 1])
def test_matmul_with_one_active_operand(index: int) -> None:
    check_rule("MatMul", [sample(2, 5, 3), sample(3, 4)], wrt=[index], torch_function=torch.matmul)


@pytest.mark.parametrize(("a", "b"), [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((0, 2, 3), (0, 3, 4))])
def test_matmul_of_empty_operands(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_rule("MatMul", [sample(*a), sample(*b)], torch_function=torch.matmul, second_order=False)


def test_matmul_of_an_empty_batch_with_a_matrix() -> None:
    """In ONNX Runtime: the reference evaluator's Flatten fails on empty tensors."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]>'
        "g (float[2, rows, 3] a, float[3, 4] b) => (float[2, rows, 4] y) { y = MatMul(a, b) }"
    )
    feeds = {
        "a": np.zeros((2, 0, 3), np.float32),
        "b": np.ones((3, 4), np.float32),
        "y.grad_output": np.zeros((2, 0, 4), np.float32),
    }
    da, db = run_runtime(joint_graph(model, ["a", "b"], BUILTIN_RULES), feeds)
    assert da.shape == (2, 0, 3)
    np.testing.assert_array_equal(db, np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (), (1,), (4,), (2, 1), (1, 4), (2, 4)])
def test_gemm(trans_a: int, trans_b: int, c: tuple[int, ...] | None) -> None:
    a = sample(3, 2) if trans_a else sample(2, 3)
    b = sample(4, 3) if trans_b else sample(3, 4)

    def gemm(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        product = 0.5 * (a.T if trans_a else a) @ (b.T if trans_b else b)
        return product if c is None else product + 1.5 * c

    check_rule(
        "Gemm",
        [a, b, None if c is None else sample(*c, seed=2)],
        attributes={"alpha": 0.5, "beta": 1.5, "transA": trans_a, "transB": trans_b},
        torch_function=gemm,
    )


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gemm_with_a_trivial_beta(beta: float) -> None:
    check_rule(
        "Gemm",
        [sample(2, 3), sample(3, 4), sample(4)],
        attributes={"beta": beta},
        torch_function=lambda a, b, c: a @ b + beta * c,
    )
