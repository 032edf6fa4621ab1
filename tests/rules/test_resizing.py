"""Resize against its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def check(
    x: np.ndarray,
    scales: Any = None,
    sizes: Any = None,
    torch_function: Any = None,
    runtime_dtypes: tuple[type, ...] = (np.float32,),
    **attributes: Any,
) -> None:
    """In float32 in ONNX Runtime, the type in which it has kernels for all modes."""
    inputs: list[np.ndarray | None] = [x, None, None if scales is None else floats(*scales)]
    if sizes is not None:
        inputs.append(np.array(sizes))
    check_rule(
        "Resize",
        inputs,
        wrt=[0],
        attributes=attributes,
        constants=[2 if scales is not None else 3],
        torch_function=torch_function,
        runtime_dtypes=runtime_dtypes,
    )


def interpolate(**options: Any) -> Any:
    return lambda x, *_: F.interpolate(x, **options)


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 2, 3, 2), (1, 2, 2, 3, 2)])
@pytest.mark.parametrize("how", [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")])
def test_nearest_enlargement(shape: tuple[int, ...], how: tuple[str, str]) -> None:
    spatial = len(shape) - 2
    check(
        sample(*shape),
        [1, 1, *[2] * (spatial - 1), 3],
        coordinate_transformation_mode=how[0],
        nearest_mode=how[1],
        torch_function=interpolate(scale_factor=(*[2.0] * (spatial - 1), 3.0)),
    )


@pytest.mark.parametrize("sizes", [[1, 2, 6, 4], [1, 2, 5, 3], [1, 2, 2, 2], [1, 2, 3, 7]])
def test_nearest_to_sizes(sizes: list[int]) -> None:
    check(
        sample(1, 2, 3, 4),
        sizes=sizes,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        torch_function=interpolate(size=sizes[2:]),
    )


@pytest.mark.parametrize("coordinates", ["asymmetric", "half_pixel", "align_corners", "half_pixel_symmetric"])
@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("scale", [2.0, 1.5, 0.6])
def test_nearest_in_all_forms(coordinates: str, rounding: str, scale: float) -> None:
    check(
        sample(1, 1, 5, 4),
        [1, 1, scale, 1],
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
        runtime_dtypes=(),
    )
    _check_against_the_runtimes_own_forward(
        sample(1, 1, 5, 4),
        [1, 1, scale, 1],
        coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )


def _check_against_the_runtimes_own_forward(x: np.ndarray, scales: list[float], **attributes: Any) -> None:
    """<seed, forward(e)> for each unit vector e: at ties the runtime rounds otherwise than the reference."""
    node = onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    shape = [int(np.floor(size * scale)) for size, scale in zip(x.shape, scales, strict=True)]
    forward = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "resize",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
            [onnx.numpy_helper.from_array(floats(*scales), "scales")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 19)],
        ir_version=9,
    )
    seed = sample(*shape).astype(np.float32)
    units = np.eye(x.size, dtype=np.float32).reshape(-1, *x.shape)
    expected = [np.vdot(seed, run_runtime(forward, {"x": unit})[0]) for unit in units]
    feeds = {"x": x.astype(np.float32), "y.grad_output": seed}
    (actual,) = run_runtime(joint_graph(forward, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_allclose(actual.reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [[1, 2, 6, 8], [1, 2, 5, 7], [1, 2, 2, 3], [1, 2, 3, 9]])
@pytest.mark.parametrize("aligned", [False, True])
def test_interpolation(mode: str, sizes: list[int], aligned: bool) -> None:
    check(
        sample(1, 2, 3, 4),
        sizes=sizes,
        mode=mode,
        coordinate_transformation_mode="align_corners" if aligned else "pytorch_half_pixel",
        cubic_coeff_a=-0.75,
        # The reference evaluator rounds cubic coefficients to float32.
        torch_function=interpolate(size=sizes[2:], mode="bilinear", align_corners=aligned)
        if mode == "linear"
        else None,
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias_and_excluded_borders(mode: str) -> None:
    check(sample(1, 1, 5, 6), [1, 1, 0.6, 0.5], mode=mode, antialias=1)
    check(sample(1, 1, 5, 6), [1, 1, 0.6, 2], mode="cubic", exclude_outside=1)


def test_volumes() -> None:
    check(
        sample(1, 1, 2, 3, 2),
        sizes=[1, 1, 3, 4, 3],
        mode="linear",
        torch_function=interpolate(size=[3, 4, 3], mode="trilinear"),
    )


def test_axes_and_sizes_of_them() -> None:
    check(
        sample(1, 2, 3, 4),
        sizes=[7, 5],
        mode="linear",
        axes=[3, 2],
        torch_function=interpolate(size=[5, 7], mode="bilinear"),
    )


@pytest.mark.parametrize("extrapolation_value", [0.0, 2.0])
def test_crop_and_resize(extrapolation_value: float) -> None:
    check_rule(
        "Resize",
        [sample(1, 1, 4, 5), floats(0, 0, 0.2, -0.3, 1, 1, 0.8, 0.9), None, np.array([1, 1, 3, 4])],
        wrt=[0],
        constants=[1, 3],
        attributes={
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": extrapolation_value,
        },
        runtime_dtypes=(np.float32,),
    )


def test_scales_that_are_computed() -> None:
    check_rule(
        "Resize",
        [sample(1, 1, 3, 4), None, floats(1, 1, 2, 1.5)],
        wrt=[0],
        attributes={"mode": "linear"},
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize(("shape", "axes", "sizes"), [((2, 1, 3, 4), [2, 3], [7, 5]), ((3, 4, 2), [1, 0], [2, 2])])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_policy_that_chooses_one_scale(
    policy: str, shape: tuple[int, ...], axes: list[int], sizes: list[int], mode: str
) -> None:
    check_rule(
        "Resize",
        [sample(*shape), None, None, np.array(sizes)],
        wrt=[0],
        constants=[3],
        attributes={"mode": mode, "axes": axes, "keep_aspect_ratio_policy": policy},
        runtime_dtypes=(np.float32,) if len(shape) == 4 else (),
        second_order=False,
    )


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize(("shape", "sizes"), [((3, 4), [7, 6]), ((2, 2, 3, 4), [3, 2, 2, 6])])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_policy_over_all_axes(policy: str, shape: tuple[int, ...], sizes: list[int], mode: str) -> None:
    check_rule(
        "Resize",
        [sample(*shape), None, None, np.array(sizes)],
        wrt=[0],
        constants=[3],
        attributes={"mode": mode, "keep_aspect_ratio_policy": policy},
        runtime_dtypes=(np.float32,) if mode == "nearest" or len(shape) == 2 else (),
        second_order=False,
    )


LONG: list[tuple[int, int | float, dict[str, Any]]] = [
    (300, 3.0, {"mode": "linear"}),
    (517, 1.77, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}),
    (400, 1601, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    (401, 799, {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}),
    (999, 700, {"mode": "linear", "antialias": 1}),
    (2000, 0.21, {"mode": "linear", "antialias": 1}),
    (1000, 0.4, {"mode": "linear"}),
    (320, 2.5, {"mode": "cubic"}),
    (333, 1000, {"mode": "cubic", "exclude_outside": 1, "coordinate_transformation_mode": "pytorch_half_pixel"}),
    (450, 1.3, {"mode": "nearest"}),
    (450, 1111, {"mode": "nearest", "coordinate_transformation_mode": "align_corners", "nearest_mode": "ceil"}),
    (2100, 500, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
]
"""Inputs, outputs (or the scale, a float), attributes."""


def resize_model(shape: tuple[int, ...], axis: int, target: float, attributes: dict[str, Any]) -> onnx.ModelProto:
    by_scale = isinstance(target, float)
    factors: list[float] = [1] * len(shape) if by_scale else list(shape)
    factors[axis] = target
    result = [int(size * factor) for size, factor in zip(shape, factors, strict=True)] if by_scale else factors
    known = floats(*factors) if by_scale else np.array(factors, np.int64)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Resize", ["x", "", *([] if by_scale else [""]), "known"], ["y"], **attributes)],
        "resize",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, result)],
        [onnx.numpy_helper.from_array(known, "known")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(("size", "target", "attributes"), LONG)
@pytest.mark.parametrize("shape", [(2, 3, 0), (1, 2, 0, 3), (1, 1, 2, 0)])
def test_long_axes_in_blocks(size: int, target: float, attributes: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Against the matrix that the runtime's own forward is, and without one of all inputs by all outputs."""
    if attributes["mode"] == "cubic" and len(shape) < 4:
        pytest.skip("ONNX Runtime interpolates images only by cubic polynomials")
    axis = shape.index(0)
    units = np.eye(size, dtype=np.float32)[:, None, None]
    (matrix,) = run_runtime(resize_model(units.shape, 3, target, attributes), {"x": units})
    outputs = matrix.shape[-1]
    dy = sample(*(size or outputs for size in shape)).astype(np.float32)
    joint = joint_graph(
        resize_model(tuple(each or size for each in shape), axis, target, attributes), ["x"], BUILTIN_RULES
    )
    feeds = {"x": np.zeros([each or size for each in shape], np.float32), "y.grad_output": dy}
    (dx,) = run_runtime(joint, feeds)
    expected = np.moveaxis(np.moveaxis(dy, axis, -1) @ matrix.reshape(size, outputs).T.astype(np.float64), -1, axis)
    np.testing.assert_allclose(dx, expected, atol=2e-5)
    assert {"Gather", "Tile"} <= {node.op_type for node in joint.graph.node}


def test_a_long_signal() -> None:
    """200,000 samples: the whole matrix would take 320 GB."""
    model = resize_model((1, 1, 200_000), 2, 2.0, {"mode": "linear"})
    joint = joint_graph(model, ["x"], BUILTIN_RULES)
    dy = sample(1, 1, 400_000).astype(np.float32)
    (dx,) = run_runtime(joint, {"x": np.zeros((1, 1, 200_000), np.float32), "y.grad_output": dy})
    x = torch.zeros(1, 1, 200_000, requires_grad=True)
    y = F.interpolate(x, scale_factor=2, mode="linear")
    np.testing.assert_allclose(dx, torch.autograd.grad(y, x, torch.tensor(dy))[0], atol=1e-5)
