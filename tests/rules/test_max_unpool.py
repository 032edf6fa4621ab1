"""MaxUnpool against its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_edge_values, check_rule

UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}
CASES: list[tuple[list[int], list[int], dict[str, Any], bool]] = [
    ([3], [6], {"kernel_shape": [2], "strides": [2]}, False),
    ([2, 3], [4, 6], {"kernel_shape": [2, 2], "strides": [2, 2]}, False),
    ([2, 2], [3, 4], {"kernel_shape": [3, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}, False),
    ([2, 3], [3, 4], {"kernel_shape": [2, 2]}, False),
    ([2, 2], [5, 5], {"kernel_shape": [2, 2], "strides": [2, 2]}, True),
    ([2, 1, 2], [4, 2, 4], {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}, False),
]


def positions(batch: int, channels: int, pooled: list[int], sizes: list[int]) -> np.ndarray:
    """Distinct positions in each plane, counted in the whole tensor."""
    random, plane = np.random.default_rng(5), int(np.prod(sizes))
    picked = [random.permutation(plane)[: int(np.prod(pooled))] + plane * k for k in range(batch * channels)]
    return np.reshape(picked, (batch, channels, *pooled))


@pytest.mark.parametrize(("pooled", "sizes", "attributes", "given"), CASES)
@pytest.mark.parametrize("constant", [True, False])
def test_max_unpool(
    pooled: list[int], sizes: list[int], attributes: dict[str, Any], given: bool, constant: bool
) -> None:
    indices = positions(2, 2, pooled, sizes)
    x = np.random.default_rng(9).standard_normal(indices.shape)
    rank, plane = len(sizes), int(np.prod(sizes))
    stride = attributes.get("strides", [1] * rank)
    pads = attributes.get("pads", [0] * rank)[:rank]

    def unpool(x: torch.Tensor, indices: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return UNPOOL[rank](x, indices % plane, attributes["kernel_shape"], stride, pads, output_size=sizes)

    check_rule(
        "MaxUnpool",
        [x, indices, np.array([2, 2, *sizes])] if given else [x, indices],
        attributes=attributes,
        constants=[2] if given and constant else [],
        torch_function=unpool,
    )


def test_elements_at_one_position_each_get_its_cotangent() -> None:
    x, indices = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[4, 0, 4]]])
    check_edge_values(
        "MaxUnpool",
        [x, indices],
        lambda x, indices: F.max_unpool1d(x, indices, 2),
        attributes={"kernel_shape": [2], "strides": [2]},
    )
