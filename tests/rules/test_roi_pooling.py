"""RoiAlign and MaxRoiPool against their contracts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


REGIONS = np.array([[0.3, 0.7, 3.2, 4.1], [-1.6, 1.1, 5.3, 5.7], [2.2, 2.1, 2.2, 2.1], [3.3, 3.4, 1.2, 1.6]])
"""Overlapping, reaching over the edges, of no size, and turned inside out."""
IMAGES = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode: str, ratio: int, coordinates: str) -> None:
    check_rule(
        "RoiAlign",
        [sample(2, 2, 4, 5), REGIONS, IMAGES],
        attributes={
            "mode": mode,
            "sampling_ratio": ratio,
            "coordinate_transformation_mode": coordinates,
            "output_height": 2,
            "output_width": 3,
            "spatial_scale": 0.9,
        },
        wrt=[0],
        # Rounded to float16, two products that are nearly equal may change places.
        runtime_dtypes=(np.float32,) if mode == "max" else (np.float32, np.float16),
    )


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_max_roi_pool(scale: float) -> None:
    regions = [[0.3, 0.7, 3.2, 4.1], [-3, 1, 9, 7], [2, 2, 2, 2], [3, 3, 1, 1], [2.5, 0.5, 4, 5], [17, 1, 19, 2]]
    check_rule(
        "MaxRoiPool",
        [sample(2, 2, 5, 6), np.column_stack([[0, 1, 1, 0, 0, 1], regions])],
        attributes={"pooled_shape": [2, 3], "spatial_scale": scale},
        wrt=[0],
    )


def test_the_first_of_equal_elements_has_the_gradient() -> None:
    model = pooling_model("MaxRoiPool", [("x", [1, 1, 2, 2]), ("rois", [1, 5])], pooled_shape=[1, 1])
    feeds = {"x": np.ones((1, 1, 2, 2)), "rois": np.array([[0, 0, 0, 1, 1]]), "y.grad_output": np.full((1, 1, 1, 1), 3)}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), in_single_precision(feeds))
    np.testing.assert_array_equal(dx[0, 0], [[3, 0], [0, 0]])


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_of_no_regions(mode: str) -> None:
    shapes: list[tuple[str, list[int | str]]] = [("x", [1, 2, 3, 3]), ("rois", ["regions", 4]), ("images", ["regions"])]
    model = pooling_model("RoiAlign", shapes, mode=mode, output_height=2, output_width=2)
    feeds = {"x": sample(1, 2, 3, 3), "rois": np.zeros((0, 4)), "y.grad_output": np.zeros((0, 2, 2, 2))}
    feeds = {**in_single_precision(feeds), "images": np.zeros(0, np.int64)}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_array_equal(dx, np.zeros((1, 2, 3, 3)))


def test_many_overlapping_regions_are_summed_by_several_threads() -> None:
    corners = np.random.default_rng(2).uniform(0, 3, (500, 2))
    regions = np.column_stack([np.zeros(500), corners, corners + 2])
    model = pooling_model("MaxRoiPool", [("x", [1, 8, 6, 6]), ("rois", [500, 5])], pooled_shape=[2, 2])
    feeds = {"x": sample(1, 8, 6, 6), "rois": regions, "y.grad_output": np.ones((500, 8, 2, 2))}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), in_single_precision(feeds), threads=4)
    np.testing.assert_array_equal(dx.sum((0, 2, 3)), np.full(8, 500 * 4))


def in_single_precision(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32) for name, array in feeds.items()}


def pooling_model(op_type: str, inputs: list[tuple[str, list[int | str]]], **attributes: Any) -> onnx.ModelProto:
    info, tensor = onnx.helper.make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, [name for name, _ in inputs], ["y"], **attributes)],
        "pooling",
        [info(name, tensor.INT64 if name == "images" else tensor.FLOAT, shape) for name, shape in inputs],
        [info("y", tensor.FLOAT, [None] * 4)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 26)], ir_version=13)
    return onnx.shape_inference.infer_shapes(model)
