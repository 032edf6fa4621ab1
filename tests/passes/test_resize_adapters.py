"""Upsample and Resize of opsets 7 to 12, against the runtime's own reading of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.upgrade_opset import UpgradeOpset

from .old_models import ints, model, run, sample


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("scales", "resizes"), [((0.6, 0.6), 1), ((0.6, 1.7), 2), ((1.7, 0.45), 2), ((2, 3), 1), ((1, 1), 1)]
)
def test_nearest_of_opset_10(scales: tuple[float, float], resizes: int, constant: bool) -> None:
    x, s = sample(1, 1, 7, 9), np.array([1, 1, *scales], np.float32)
    original = model("Resize", 10, [x, s], {"mode": "nearest"}, 1, symbolic=False)
    if constant:
        del original.graph.input[1]
        original.graph.initializer.append(onnx.numpy_helper.from_array(s, "x1"))
    feeds = [x] if constant else [x, s]
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    operators = [node.op_type for node in upgraded.graph]
    assert operators == ["Resize"] * resizes if constant else ["Max", "Min", "Resize", "Resize"]
    assert upgraded.graph.node(-1).name == "n"
    LowerOpset()(upgraded)
    np.testing.assert_array_equal(run(ir.to_proto(upgraded), feeds)[0], run(original, feeds)[0])


def test_upsample_only_enlarges() -> None:
    x, s = sample(1, 1, 7, 9), np.array([1, 1, 1.7, 2.4], np.float32)
    original = model("Upsample", 9, [x, s], {"mode": "nearest"}, 1, symbolic=False)
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    assert [node.op_type for node in upgraded.graph] == ["Resize"]
    LowerOpset()(upgraded)
    np.testing.assert_array_equal(run(ir.to_proto(upgraded), [x, s])[0], run(original, [x, s])[0])


@pytest.mark.parametrize("nearest", ["floor", "round_prefer_floor", None])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.7, 0.6), (0.5, 3.0)])
def test_resize_without_the_shift_by_half_a_sample(nearest: str | None, scales: tuple[float, float]) -> None:
    attributes = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": nearest}
    attributes = {name: value for name, value in attributes.items() if value}
    inputs = [sample(1, 1, 5, 6), np.zeros(0, np.float32), np.array([1, 1, *scales], np.float32)]
    original = model("Resize", 11, inputs, attributes, 1, symbolic=False)
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    LowerOpset()(upgraded)
    onnx.checker.check_model(ir.to_proto(upgraded))
    np.testing.assert_array_equal(run(ir.to_proto(upgraded), inputs)[0], run(original, inputs)[0])


def test_resize_omits_scales_beside_sizes() -> None:
    empty = np.zeros(0, np.float32)
    inputs = [sample(1, 1, 5, 6), empty, empty, ints(1, 1, 7, 8)]
    original = model("Resize", 11, inputs, {"mode": "linear"}, 1, symbolic=False)
    upgraded = ir.from_proto(original)
    UpgradeOpset()(upgraded)
    assert [value is None for value in upgraded.graph.node(0).inputs] == [False, True, True, False]
    LowerOpset()(upgraded)
    np.testing.assert_allclose(run(ir.to_proto(upgraded), inputs)[0], run(original, inputs)[0], rtol=1e-6)


@pytest.mark.parametrize("attributes", [{"nearest_mode": "ceil"}, {"mode": "linear", "nearest_mode": "floor"}])
def test_what_cannot_do_without_that_shift_is_refused(attributes: dict[str, str]) -> None:
    attributes = {"coordinate_transformation_mode": "tf_half_pixel_for_nn", **attributes}
    inputs = [sample(1, 1, 5, 6), np.zeros(0, np.float32), np.ones(4, np.float32)]
    upgraded = ir.from_proto(model("Resize", 11, inputs, attributes, 1, symbolic=False))
    with pytest.raises(UnsupportedError, match="'n' has coordinate_transformation_mode='tf_half_pixel_for_nn'"):
        UpgradeOpset()(upgraded)
