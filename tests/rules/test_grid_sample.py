"""GridSample and AffineGrid against their contract.

Finite differences are of a GridSample in float64 (`reference_sampling`), since the reference evaluator's own rounds
coordinates to float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_edge_values, check_rule, joint_graph, run_reference, run_runtime

TORCH_MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def normalized(elements: np.ndarray, sizes: tuple[int, ...], aligned: int) -> np.ndarray:
    """Coordinates counted in elements, the first axis first, as a grid has them."""
    spans = np.array(sizes) - aligned
    return ((2 * elements + (0 if aligned else 1)) / spans - 1)[..., ::-1].copy()


def grid_between_elements(batch: int, out: tuple[int, ...], sizes: tuple[int, ...], aligned: int) -> np.ndarray:
    """Positions in and around x, all off the kinks: not too near to an element or to the middle of two."""
    random = np.random.default_rng([7, *out, *sizes])
    shape = (batch, *out, len(sizes))
    whole = random.integers(-2 * np.array(sizes), 3 * np.array(sizes), shape) // 2
    return normalized(whole + random.choice([0.2, 0.35, 0.7, 0.85], shape), sizes, aligned)


def torch_grid_sample(mode: str, padding: str, aligned: int) -> Any:
    return lambda x, grid: F.grid_sample(x, grid, TORCH_MODES[mode], padding, bool(aligned))


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample_2d(mode: str, padding: str, aligned: int) -> None:
    check_rule(
        "GridSample",
        [sample(2, 2, 2, 3), grid_between_elements(2, (1, 3), (2, 3), aligned)],
        attributes={"mode": mode, "padding_mode": padding, "align_corners": aligned},
        wrt=[0] if mode == "nearest" else [0, 1],
        torch_function=torch_grid_sample(mode, padding, aligned),
        dynamic=aligned == 0,
        # Rounded to float16, a coordinate may be nearest to another element.
        runtime_dtypes=(np.float32,) if mode == "nearest" else (np.float32, np.float16),
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_3d(mode: str, padding: str) -> None:
    check_rule(
        "GridSample",
        [sample(1, 2, 2, 3, 2), grid_between_elements(1, (1, 2, 2), (2, 3, 2), 0)],
        attributes={"mode": mode, "padding_mode": padding},
        wrt=[0] if mode == "nearest" else [0, 1],
        torch_function=torch_grid_sample("linear" if mode == "linear" else mode, padding, 0),
        second_order=padding == "border",
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize(("sizes", "out"), [((4,), (3,)), ((2, 2, 2), (1, 1, 2))])
def test_grid_sample_without_a_runtime_kernel(sizes: tuple[int, ...], out: tuple[int, ...], mode: str) -> None:
    check_rule(
        "GridSample",
        [sample(2, 1, *sizes), grid_between_elements(2, out, sizes, 1)],
        attributes={"mode": mode, "padding_mode": "reflection", "align_corners": 1},
        second_order=len(sizes) == 1,
        runtime_dtypes=(),
    )


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_positions_at_elements_and_edges(padding: str, aligned: int) -> None:
    """As PyTorch: right of an element counts, and the first and last element have no slope with padding."""
    elements = np.stack(np.meshgrid(np.arange(-3.0, 8), [0.0, 2.5, 4], indexing="ij"), axis=-1)[None]
    shape = (5, 5) if aligned else (8, 8)
    check_edge_values(
        "GridSample",
        [np.round(sample(1, 2, *shape) * 8) / 8, normalized(elements, shape, aligned)],
        lambda x, grid: F.grid_sample(x, grid, "bilinear", padding, bool(aligned)),
        attributes={"padding_mode": padding, "align_corners": aligned},
        runtime_dtypes=(np.float32,),
    )


def test_one_element_along_an_axis() -> None:
    for padding in ("zeros", "border", "reflection"):
        check_edge_values(
            "GridSample",
            [sample(1, 2, 1, 3), grid_between_elements(1, (2, 3), (2, 3), 1)],
            torch_grid_sample("linear", padding, 1),
            attributes={"padding_mode": padding, "align_corners": 1},
            runtime_dtypes=(),
        )


def sampling_model(x_type: int, grid_type: int, batch: int, size: int, out: int, **attributes: Any) -> onnx.ModelProto:
    """A canonical GridSample of squares."""
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GridSample", ["x", "grid"], ["y"], **attributes)],
        "sampling",
        [info("x", x_type, [batch, 2, size, size]), info("grid", grid_type, [batch, out, out, 2])],
        [info("y", x_type, [batch, 2, out, out])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=13)


def test_many_reads_of_an_element_are_summed_by_several_threads() -> None:
    random = np.random.default_rng(3)
    x, grid = random.standard_normal((2, 2, 3, 3)), random.uniform(-1.2, 1.2, (2, 200, 200, 2))
    dy = random.standard_normal((2, 2, 200, 200))
    model = sampling_model(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, 2, 3, 200)
    feeds = {"x": x, "grid": grid, "y.grad_output": dy}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    gradients = run_runtime(joint_graph(model, ["x", "grid"], BUILTIN_RULES), feeds, threads=4)
    tensors = [torch.tensor(feeds[name], dtype=torch.float64, requires_grad=True) for name in ("x", "grid")]
    y = F.grid_sample(*tensors, align_corners=False)
    expected = torch.autograd.grad(y, tensors, torch.tensor(feeds["y.grad_output"], dtype=torch.float64))
    np.testing.assert_allclose(gradients[0], expected[0].numpy(), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(gradients[1], expected[1].numpy(), rtol=1e-3, atol=1e-4)


def test_positions_that_are_no_numbers_leave_the_rest_alone() -> None:
    grid = np.zeros((1, 2, 2, 2), np.float32)
    grid[0, 0] = [[np.nan, 0.3], [np.inf, -np.inf]]
    grid[0, 1] = [[0.1, 0.3], [1e30, -1e30]]
    x, dy = sample(1, 2, 4, 4).astype(np.float32), np.ones((1, 2, 2, 2), np.float32)
    model = sampling_model(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, 1, 4, 2)
    joint = joint_graph(model, ["x", "grid"], BUILTIN_RULES)
    dx, dgrid = run_runtime(joint, {"x": x, "grid": grid, "y.grad_output": dy})
    alone, _ = run_runtime(joint, {"x": x, "grid": np.where(np.abs(grid) < 1, grid, 9), "y.grad_output": dy})
    np.testing.assert_array_equal(dx, alone)
    assert np.isfinite(dgrid[0, 1]).all()


def test_a_grid_in_another_type_than_the_image() -> None:
    x, grid, dy = sample(1, 2, 4, 4), grid_between_elements(1, (3, 3), (4, 4), 0), sample(1, 2, 3, 3)
    model = sampling_model(onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT, 1, 4, 3)
    feeds = {"x": x, "grid": grid.astype(np.float32), "y.grad_output": dy}
    gradients = run_reference(joint_graph(model, ["x", "grid"], BUILTIN_RULES), feeds)
    tensors = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (x, feeds["grid"])]
    expected = torch.autograd.grad(F.grid_sample(*tensors, align_corners=False), tensors, torch.tensor(dy))
    assert [gradient.dtype for gradient in gradients] == [np.float64, np.float32]
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, reference.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 3, 4], [2, 1, 2, 3, 2]])
def test_affine_grid(size: list[int], aligned: int) -> None:
    rank = len(size) - 2
    check_rule(
        "AffineGrid",
        [sample(2, rank, rank + 1), np.array(size)],
        attributes={"align_corners": aligned},
        constants=[1],
        torch_function=lambda theta, size: F.affine_grid(theta, size.tolist(), align_corners=bool(aligned)),
    )


def test_affine_grid_of_computed_sizes() -> None:
    check_rule("AffineGrid", [sample(2, 2, 3), np.array([2, 1, 3, 2])], wrt=[0])
