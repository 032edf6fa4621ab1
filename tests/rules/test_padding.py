"""Pad and CenterCropPad against their contract."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


PADS = [
    ([1, 2, 0, 1], None),
    ([0, 2, 0, 0], None),
    ([2, 1], [1]),
    ([2, 0, 1, 3], [-1, 0]),
    ([0, 0], [0]),
]


def pad(mode: str, pads: list[int], axes: list[int] | None):
    axes = [0, 1] if axes is None else axes

    def function(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        fill = rest[1] if mode == "constant" and len(rest) > 1 and rest[1].is_floating_point() else None
        for index, axis in enumerate(axes):
            before, after = pads[index], pads[index + len(axes)]
            size = x.shape[axis]
            sources = np.pad(np.arange(size), (before, after), mode if mode != "constant" else "edge")
            padded = x.index_select(axis, torch.tensor(sources))
            if mode == "constant":
                inside = torch.zeros(len(sources), dtype=torch.bool)
                inside[before : before + size] = True
                shape = [1] * x.ndim
                shape[axis] = -1
                padded = torch.where(inside.reshape(shape), padded, 0.0 if fill is None else fill.reshape(()))
            x = padded
        return x

    return function


def pad_inputs(pads, axes, fill) -> list[np.ndarray | None]:
    return [sample(4, 5), ints(*pads), fill, *([] if axes is None else [ints(*axes)])]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(("pads", "axes"), PADS)
@pytest.mark.parametrize("constant", [True, False])
def test_pad(mode: str, pads: list[int], axes: list[int] | None, constant: bool) -> None:
    constants = [3] if axes else []
    check_rule(
        "Pad",
        pad_inputs(pads, axes, None),
        attributes={"mode": mode},
        constants=[1, *constants] if constant else constants,
        torch_function=pad(mode, pads, axes),
    )


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize(("pads", "axes"), [case for case in PADS if case[1] is not None])
def test_pad_along_computed_axes(mode: str, pads: list[int], axes: list[int]) -> None:
    check_rule(
        "Pad",
        pad_inputs(pads, axes, None),
        attributes={"mode": mode},
        torch_function=lambda x, _, __: pad(mode, pads, axes)(x),
    )


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("pads", "axes"), PADS)
def test_pad_with_a_differentiable_constant(shape, pads, axes) -> None:
    check_rule(
        "Pad",
        pad_inputs(pads, axes, sample(*shape)),
        constants=[1, 3] if axes else [1],
        torch_function=pad("constant", pads, axes),
    )


@pytest.mark.parametrize("pads", [[1, -2, 0, -1], [-1, 0, -1, 2], [-1, -1, 2, 1], [1, 0, -2, 0]])
@pytest.mark.parametrize("constants", [[1], []])
def test_negative_pads(pads: list[int], constants: list[int]) -> None:
    """In ONNX Runtime against PyTorch: the reference evaluator pads by no negative amount."""
    x, before, after = sample(4, 5), pads[:2], pads[2:]
    node = onnx.helper.make_node("Pad", ["x", "pads"], ["y"])
    vector = onnx.helper.make_tensor_value_info("pads", onnx.TensorProto.INT64, [4])
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [node],
            "pad",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 5]), *([] if constants else [vector])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", "columns"])],
            [onnx.numpy_helper.from_array(ints(*pads), "pads")] if constants else [],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 20)],
        ir_version=10,
    )
    tensor = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.pad(tensor, [before[1], after[1], before[0], after[0]])
    seed = sample(*y.shape)
    y.backward(torch.tensor(seed))
    feeds = {"x": x.astype(np.float32), "y.grad_output": seed.astype(np.float32)}
    if not constants:
        feeds["pads"] = ints(*pads)
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_allclose(dx, tensor.grad, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [([2, 3], None), ([7, 8], None), ([3, 8], None), ([7, 2], None), ([3], [1]), ([8, 2], [-1, 0]), ([4], [0])],
)
def test_center_crop_pad(shape: list[int], axes: list[int] | None) -> None:
    def function(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        for axis, size in zip([0, 1] if axes is None else axes, shape, strict=True):
            excess = x.shape[axis] - size
            if excess >= 0:
                x = x.narrow(axis, excess // 2, size)
            else:
                zeros = torch.zeros([-excess if other == axis % 2 else n for other, n in enumerate(x.shape)])
                before, after = zeros.to(x).split([-excess // 2, -excess - -excess // 2], axis)
                x = torch.cat([before, x, after], axis)
        return x

    check_rule(
        "CenterCropPad",
        [sample(4, 5), ints(*shape)],
        attributes={} if axes is None else {"axes": axes},
        torch_function=function,
    )
