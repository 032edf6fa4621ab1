"""Short Fourier transforms as products, against PyTorch in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxgrad.passes.fourier_by_products import LONGEST, FourierByProducts

from .running import run


def dft(
    sizes: tuple[int | str, ...],
    result: tuple[int | str, ...],
    axis: int,
    *,
    length: int | None = None,
    opset: int = 20,
    **attributes: int,
) -> ir.Model:
    inputs, numbers = ["x", "" if length is None else "length"], {"length": length, "axis": axis}
    if opset < 20:
        attributes["axis"] = axis
    else:
        inputs.append("axis")
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("DFT", inputs, ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, result)],
        [onnx.numpy_helper.from_array(np.array(numbers[name]), name) for name in inputs[1:] if name],
    )
    return ir.from_proto(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", opset)]))


def by_torch(x: np.ndarray, length: int | None, axis: int, inverse: int, onesided: int) -> np.ndarray:
    wide = torch.tensor(x, dtype=torch.float64)
    signal = torch.view_as_complex(wide) if x.shape[-1] == 2 else wide[..., 0]
    if inverse and onesided:
        return torch.fft.irfft(signal, length, axis)[..., None].numpy()
    functions = {(0, 0): torch.fft.fft, (1, 0): torch.fft.ifft, (0, 1): torch.fft.rfft}
    return torch.view_as_real(functions[inverse, onesided](signal, length, axis).resolve_conj()).numpy()


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("length", [None, 4, 7, 12])
@pytest.mark.parametrize(
    ("inverse", "onesided", "parts"), [(0, 0, 1), (0, 0, 2), (1, 0, 2), (1, 0, 1), (0, 1, 1), (1, 1, 2)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_transforms(opset: int, length: int | None, inverse: int, onesided: int, parts: int, axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 5, parts), np.float32)
    expected = by_torch(x, length, axis, inverse, onesided)
    model = dft(x.shape, expected.shape, axis, length=length, opset=opset, inverse=inverse, onesided=onesided)
    assert FourierByProducts()(model).modified
    assert "DFT" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("sizes", "axis"), [((2, LONGEST + 1, 2), 1), (("n", 8, 2), 1), ((2, "n", 2), 1)])
def test_long_ones_and_unknown_sizes_stay(sizes: tuple[int | str, ...], axis: int) -> None:
    assert not FourierByProducts()(dft(sizes, sizes, axis)).modified
