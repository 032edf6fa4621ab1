"""Conv and ConvTranspose against their contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_rule

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def conv(**attributes: Any) -> Any:
    """PyTorch's convolution with the padding of ONNX, which may differ between the two sides."""

    def function(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = x.dim() - 2
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        pads = attributes.get("pads", [0] * (2 * rank))
        if attributes.get("auto_pad", "").startswith("SAME"):
            totals = [
                max((-(-x.shape[axis + 2] // s) - 1) * s + (w.shape[axis + 2] - 1) * d + 1 - x.shape[axis + 2], 0)
                for axis, (s, d) in enumerate(zip(strides, dilations, strict=True))
            ]
            upper = attributes["auto_pad"] == "SAME_UPPER"
            first = [total // 2 if upper else total - total // 2 for total in totals]
            pads = [*first, *(total - before for total, before in zip(totals, first, strict=True))]
        padded = F.pad(x, [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)])
        return CONV[rank - 1](padded, w, bias, strides, 0, dilations, attributes.get("group", 1))

    return function


def check_conv(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **options: Any) -> None:
    names = ("runtime_dtypes", "second_order", "dynamic")
    how = {name: options.pop(name) for name in names if name in options}
    inputs = [x, w] if bias is None else [x, w, bias]
    check_rule("Conv", inputs, attributes=options, torch_function=conv(**options), **how)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pads": [1, 1]},
        {"strides": [2], "pads": [1, 0]},
        {"strides": [3], "pads": [0, 1], "dilations": [2]},
        {"strides": [2], "pads": [0, 3]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"auto_pad": "SAME_UPPER", "strides": [4]},
        {"auto_pad": "VALID", "strides": [3]},
    ],
    ids=str,
)
def test_conv_1d(options: dict[str, Any], group: int) -> None:
    check_conv(sample(2, 2, 8), sample(2 * group, 2 // group, 3), sample(2 * group), group=group, **options)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"strides": [2, 3], "pads": [0, 2, 1, 0], "dilations": [1, 2]},
        {"strides": [1, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 2]},
    ],
    ids=str,
)
def test_conv_2d(options: dict[str, Any], group: int) -> None:
    check_conv(sample(2, 2, 5, 6), sample(2, 2 // group, 3, 2), sample(2), group=group, **options)


def test_conv_3d() -> None:
    options = {"strides": [2, 1, 1], "pads": [1, 0, 1, 1, 0, 0]}
    check_conv(sample(1, 2, 4, 3, 3), sample(2, 2, 3, 2, 2), second_order=False, **options)
    check_conv(sample(1, 2, 3, 2, 2), sample(2, 1, 2, 2, 2), sample(2), group=2)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise(multiplier: int) -> None:
    options = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    check_conv(sample(2, 3, 4, 4), sample(3 * multiplier, 1, 3, 3), group=3, **options)


def conv_transpose(**attributes: Any) -> Any:
    """PyTorch's transposed convolution, cut by the padding of ONNX, which may differ between the two sides."""

    def function(y: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rank = y.dim() - 2
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        extra = attributes.get("output_padding", [0] * rank)
        pads = attributes.get("pads", [0] * (2 * rank))
        x = CONV_TRANSPOSE[rank - 1](y, w, None, strides, 0, 0, attributes.get("group", 1), dilations)
        x = F.pad(x, [side for each in reversed(extra) for side in (0, each)])
        if "output_shape" in attributes or "auto_pad" in attributes:
            same = [size * stride for size, stride in zip(y.shape[2:], strides, strict=True)]
            wanted = attributes.get("output_shape", same)
            totals = [max(size - target, 0) for size, target in zip(x.shape[2:], wanted, strict=True)]
            upper = attributes.get("auto_pad") == "SAME_UPPER"
            first = [total // 2 if upper else total - total // 2 for total in totals]
            pads = [*first, *(total - before for total, before in zip(totals, first, strict=True))]
        for axis in range(rank):
            x = x.narrow(axis + 2, pads[axis], x.shape[axis + 2] - pads[axis] - pads[axis + rank])
        return x if bias is None else x + bias.reshape(-1, *[1] * rank)

    return function


def check_conv_transpose(y: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **options: Any) -> None:
    names = ("runtime_dtypes", "second_order", "dynamic")
    how = {name: options.pop(name) for name in names if name in options}
    inputs = [y, w] if bias is None else [y, w, bias]
    check_rule("ConvTranspose", inputs, attributes=options, torch_function=conv_transpose(**options), **how)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pads": [1, 0]},
        {"strides": [2], "pads": [0, 1]},
        {"strides": [2], "output_padding": [1]},
        {"strides": [3], "pads": [1, 1], "output_padding": [2]},
        {"strides": [2], "dilations": [3], "output_padding": [1]},
        {"auto_pad": "SAME_UPPER", "strides": [2]},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"strides": [2], "output_shape": [8]},
        {"strides": [2], "output_shape": [8], "auto_pad": "SAME_UPPER"},
        {"strides": [2], "output_shape": [10], "output_padding": [1]},
    ],
    ids=str,
)
def test_conv_transpose_1d(options: dict[str, Any], group: int) -> None:
    check_conv_transpose(sample(2, 4, 4), sample(4, 4 // group, 3), sample(4), group=group, **options)


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose_2d(group: int) -> None:
    options = {"strides": [2, 3], "pads": [0, 1, 1, 0], "output_padding": [1, 0], "dilations": [2, 1]}
    check_conv_transpose(sample(2, 2, 3, 2), sample(2, 2, 2, 3), sample(2 * group), group=group, **options)


def test_conv_transpose_3d() -> None:
    options = {"strides": [2, 1, 1], "pads": [1, 0, 1, 0, 0, 0]}
    check_conv_transpose(sample(1, 2, 2, 3, 2), sample(2, 1, 3, 2, 2), second_order=False, **options)


def test_conv_transpose_that_is_longer_than_its_windows() -> None:
    """An output padding of a whole stride leaves output positions that no window of dx may cover."""
    check_conv_transpose(
        sample(1, 1, 3), sample(1, 1, 3), strides=[1], dilations=[3], output_padding=[2], runtime_dtypes=()
    )
