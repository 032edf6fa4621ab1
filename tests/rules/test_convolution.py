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
