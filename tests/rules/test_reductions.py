"""The reductions against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch

from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime

Reduction = Callable[..., torch.Tensor]


def product(x: torch.Tensor, axes: tuple[int, ...], keepdims: bool) -> torch.Tensor:
    for axis in sorted(axis % x.ndim for axis in axes):
        x = x.prod(axis, keepdim=True)
    return x if keepdims else x.squeeze(axes)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceProd": product,
    "ReduceL1": lambda x, axes, keepdims: torch.linalg.vector_norm(x, 1, axes, keepdims),
    "ReduceL2": lambda x, axes, keepdims: torch.linalg.vector_norm(x, 2, axes, keepdims),
    "ReduceSumSquare": lambda x, axes, keepdims: torch.sum(x * x, axes, keepdims),
    "ReduceLogSum": lambda x, axes, keepdims: torch.log(torch.sum(x, axes, keepdims)),
    "ReduceLogSumExp": torch.logsumexp,
}
POSITIVE = {"ReduceLogSum"}


def sample(op_type: str, *shape: int) -> np.ndarray:
    """Distinct values of both signs off 0, positive ones for a logarithm of their sum."""
    count = int(np.prod(shape))
    random = np.random.default_rng([8, *shape])
    values = np.linspace(0.3, 1.7, count)[random.permutation(count)]
    signs = 1 if op_type in POSITIVE else random.choice([-1, 1], count)
    return np.asarray(values * signs).reshape(shape)


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4,), (0,)),
        ((2, 3), (1,)),
        ((2, 3), (-2,)),
        ((2, 3), (1, 0)),
        ((2, 3, 2), (-1, 0)),
        ((2, 3, 2), (1,)),
        ((3, 1), (1,)),
    ],
)
def test_axes(op_type: str, keepdims: int, constant: bool, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    check_rule(
        op_type,
        [sample(op_type, *shape), np.array(axes, np.int64)],
        attributes={"keepdims": keepdims},
        constants=[1] if constant else [],
        torch_function=lambda x, _: REDUCTIONS[op_type](x, axes, bool(keepdims)),
    )


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1, None])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_no_axes_mean_all(op_type: str, keepdims: int | None, shape: tuple[int, ...]) -> None:
    if op_type == "ReduceLogSumExp" and not shape:
        pytest.skip("the reference evaluator fails on rank 0; see test_log_sum_exp_of_rank_zero")
    axes = tuple(range(len(shape)))

    def function(x: torch.Tensor) -> torch.Tensor:
        if not shape:
            return REDUCTIONS[op_type](x.reshape(1), (0,), False)
        return REDUCTIONS[op_type](x, axes, keepdims != 0)

    check_rule(
        op_type,
        [sample(op_type, *shape)],
        attributes={} if keepdims is None else {"keepdims": keepdims},
        torch_function=function,
    )


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 26]> {text}')
    return ir.to_proto(InferShapes()(ir.from_proto(model)).model)


def test_log_sum_exp_of_rank_zero() -> None:
    joint = joint_graph(parse("g (float x) => (float y) { y = ReduceLogSumExp(x) }"), ["x"], BUILTIN_RULES)
    (gradient,) = run_runtime(joint, {"x": np.array(3, np.float32), "y.grad_output": np.array(2, np.float32)})
    assert gradient.shape == ()
    assert gradient == 2


ELEMENTWISE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ReduceL1": torch.abs,
    "ReduceL2": torch.abs,
    "ReduceSumSquare": torch.square,
    "ReduceLogSum": torch.log,
}


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", ["omitted", "constant", "computed"])
def test_no_axes_may_mean_none(op_type: str, keepdims: int, axes: str) -> None:
    """The elementwise part of the reduction remains (ONNX spec, attribute noop_with_empty_axes)."""
    empty = np.zeros(0, np.int64)
    elementwise = ELEMENTWISE.get(op_type, torch.clone)
    check_rule(
        op_type,
        [sample(op_type, 2, 3)] if axes == "omitted" else [sample(op_type, 2, 3), empty],
        attributes={"keepdims": keepdims, "noop_with_empty_axes": 1},
        constants=[1] if axes == "constant" else [],
        torch_function=lambda x, *_: elementwise(x),
    )


@pytest.mark.parametrize("op_type", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("constant", [True, False])
def test_empty_axes_mean_all(op_type: str, keepdims: int, constant: bool) -> None:
    check_rule(
        op_type,
        [sample(op_type, 2, 3), np.zeros(0, np.int64)],
        attributes={"keepdims": keepdims},
        constants=[1] if constant else [],
        torch_function=lambda x, _: REDUCTIONS[op_type](x, (0, 1), bool(keepdims)),
    )


@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_ties_share_evenly(op_type: str, axes: tuple[int, ...]) -> None:
    x = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [0.0, -0.0, 2.0]])
    check_rule(
        op_type,
        [x, np.array(axes)],
        constants=[1],
        torch_function=lambda x, _: REDUCTIONS[op_type](x, axes, True),
        finite_differences=False,
    )


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_products_with_zeros(axes: tuple[int, ...]) -> None:
    """Rows and columns with no, one, two and three zeros."""
    x = np.array([[1.5, 0.0, 2.0], [0.0, 0.0, -3.0], [0.0, 0.0, 0.0], [0.5, 2.0, -1.0]])
    check_rule("ReduceProd", [x, np.array(axes)], constants=[1], torch_function=lambda x, _: product(x, axes, True))
    check_rule("ReduceProd", [x[:2], np.array(axes)], constants=[1], torch_function=lambda x, _: product(x, axes, True))


@pytest.mark.parametrize("op_type", ["ReduceL1", "ReduceL2"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_norms_have_gradient_zero_at_zero(op_type: str, keepdims: int) -> None:
    x = np.array([[0.0, 0.0, -0.0], [0.0, 3.0, -4.0]])
    check_rule(
        op_type,
        [x, np.array([1])],
        attributes={"keepdims": keepdims},
        constants=[1],
        torch_function=lambda x, _: REDUCTIONS[op_type](x, (1,), bool(keepdims)),
        finite_differences=False,
    )


def test_log_sum_exp_of_large_and_masked_values() -> None:
    x = np.array([[500.0, 499.0, -np.inf], [-500.0, -500.0, -501.0]])
    check_rule(
        "ReduceLogSumExp",
        [x, np.array([1])],
        constants=[1],
        torch_function=lambda x, _: torch.logsumexp(x, (1,), True),
        finite_differences=False,
    )


def test_mean_of_more_elements_than_float16_can_count() -> None:
    joint = joint_graph(parse("g (float16[n] x) => (float16[1] y) { y = ReduceMean(x) }"), ["x"], BUILTIN_RULES)
    x = np.ones(70_000, np.float16)
    (gradient,) = run_runtime(joint, {"x": x, "y.grad_output": np.array([7], np.float16)})
    np.testing.assert_array_equal(gradient, np.float16(7 / 70_000))


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean", "ReduceL2"])
def test_reductions_of_nothing(op_type: str) -> None:
    """An empty batch: the gradient is empty, too."""
    joint = joint_graph(parse(f"g (float[n, 3] x) => (float[1, 1] y) {{ y = {op_type}(x) }}"), ["x"], BUILTIN_RULES)
    (gradient,) = run_runtime(joint, {"x": np.zeros((0, 3), np.float32), "y.grad_output": np.ones((1, 1), np.float32)})
    assert gradient.shape == (0, 3)
