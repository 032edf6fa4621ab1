"""DFT, STFT and MelWeightMatrix against their contract."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from onnxgrad.passes.errors import UnsupportedError
from onnxgrad.passes.registry import Zero
from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, numeric_gradient

LENGTHS = [None, 3, 4, 7]


def complex_of(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x) if x.shape[-1] == 2 else x[..., 0].to(torch.complex128)


def signal(*shape: int) -> np.ndarray:
    return np.random.default_rng([1, *shape]).standard_normal(shape)


def with_length(x: np.ndarray, length: int | None) -> list[np.ndarray]:
    return [x] if length is None else [x, np.array(length)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inverse", [0, 1])
def test_two_sided(length: int | None, parts: int, inverse: int) -> None:
    transform = torch.fft.ifft if inverse else torch.fft.fft
    inputs = with_length(signal(2, 5, parts), length)
    check_rule(
        "DFT",
        inputs,
        attributes={"inverse": inverse},
        constants=range(1, len(inputs)),
        torch_function=lambda x, *_: torch.view_as_real(transform(complex_of(x), length, 1)),
    )


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("size", [4, 5])
def test_one_sided(length: int | None, size: int) -> None:
    inputs = with_length(signal(2, size, 1), length)
    check_rule(
        "DFT",
        inputs,
        attributes={"onesided": 1},
        constants=range(1, len(inputs)),
        static=[0],
        torch_function=lambda x, *_: torch.view_as_real(torch.fft.rfft(x[..., 0], length, 1)),
    )


@pytest.mark.parametrize("length", [*LENGTHS, 12])
def test_one_sided_inverse(length: int | None) -> None:
    inputs = with_length(signal(2, 5, 2), length)
    check_rule(
        "DFT",
        inputs,
        attributes={"onesided": 1, "inverse": 1},
        constants=range(1, len(inputs)),
        torch_function=lambda x, *_: torch.fft.irfft(complex_of(x), length, 1)[..., None],
    )


@pytest.mark.parametrize("axis", [0, 1, -2, -3])
@pytest.mark.parametrize("attributes", [{}, {"inverse": 1}, {"inverse": 1, "onesided": 1}])
def test_axes(axis: int, attributes: dict[str, int]) -> None:
    check_rule("DFT", [signal(3, 2, 4, 2), np.array(5), np.array(axis)], attributes=attributes, constants=[1, 2])
    check_rule("DFT", [signal(3, 2, 4, 2), None, np.array(axis)], attributes=attributes, constants=[2])


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize("attributes", [{}, {"inverse": 1}, {"onesided": 1}, {"inverse": 1, "onesided": 1}])
def test_computed_length(length: int, attributes: dict[str, int]) -> None:
    parts = 1 if attributes == {"onesided": 1} else 2
    inputs = with_length(signal(2, 5, parts), length)
    check_rule("DFT", inputs, attributes=attributes)


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -3, -4])
@pytest.mark.parametrize("attributes", [{}, {"inverse": 1}, {"onesided": 1}, {"inverse": 1, "onesided": 1}])
def test_computed_axis(axis: int, attributes: dict[str, int]) -> None:
    x = signal(3, 4, 5, 1 if attributes == {"onesided": 1} else 2)
    check_rule("DFT", [x, None, np.array(axis)], attributes=attributes)
    check_rule("DFT", [x, np.array(6), np.array(axis)], attributes=attributes)


def short_time(x: torch.Tensor, step: int, window: torch.Tensor | None, length: int, onesided: int) -> torch.Tensor:
    transformed = torch.stft(
        complex_of(x) if x.shape[-1] == 2 else x[..., 0],
        length,
        step,
        window=torch.ones(length, dtype=x.dtype) if window is None else window,
        center=False,
        onesided=bool(onesided),
        return_complex=True,
    )
    return torch.view_as_real(transformed.transpose(1, 2))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize(
    ("size", "step", "length", "windowed", "onesided", "parts"),
    [
        (9, 2, 4, True, 1, 1),
        (9, 3, 5, True, 1, 1),
        (8, 4, 3, True, 0, 1),
        (7, 2, 4, True, 0, 2),
        (8, 3, 4, False, 1, 1),
        (5, 1, 5, False, 0, 1),
    ],
)
def test_short_time_transforms(
    size: int, step: int, length: int, windowed: bool, onesided: int, parts: int, constant: bool
) -> None:
    window = np.hanning(length) + 0.3 if windowed else None
    inputs = [signal(2, size, parts), np.array(step), window, *([] if windowed else [np.array(length)])]

    def function(x: torch.Tensor, _: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        return short_time(x, step, window if windowed else None, length, onesided)

    check_rule(
        "STFT",
        inputs,
        attributes={"onesided": onesided},
        wrt=[0, 2] if windowed else [0],
        constants=([1] if windowed else [1, 3]) if constant else [],
        torch_function=function,
    )


def test_window_and_length_both_given() -> None:
    inputs = [signal(1, 8, 1), np.array(2), np.hanning(4) + 0.3, np.array(4)]
    check_rule("STFT", inputs, constants=[1, 3])


def test_mel_weights_are_constant_between_the_bins() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 26]> g (double lower, double upper) => (float[9, 4] y) '
        "<int64 bins = {4}, int64 length = {16}, int64 rate = {8000}> "
        "{ y = MelWeightMatrix(bins, length, rate, lower, upper) }"
    )
    feeds = {"lower": np.array(130.0), "upper": np.array(3700.0)}
    for name in feeds:
        assert numeric_gradient(model, feeds, [np.ones((9, 4))], name, 1e-3) == 0
    entry = next(entry for _, op_type, entry in BUILTIN_RULES if op_type == "MelWeightMatrix")
    assert isinstance(entry, Zero)


def test_a_path_that_ends_in_mel_weights_is_refused_with_the_reason() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 26]> g (float upper) => (float[9, 4] y) '
        "<int64 bins = {4}, int64 length = {16}, int64 rate = {8000}, float lower = {0}> "
        "{ y = MelWeightMatrix(bins, length, rate, lower, upper) }"
    )
    with pytest.raises(UnsupportedError, match=r"'upper': the path breaks at MelWeightMatrix .*piecewise constant"):
        joint_graph(model, ["upper"], BUILTIN_RULES)
