"""Col2Im against its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from .checking import check_rule

CASES: list[tuple[list[int], list[int], dict[str, list[int]]]] = [
    ([3, 4], [2, 3], {}),
    ([3, 4], [3, 2], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ([4, 5], [2, 2], {"pads": [2, 1, 2, 1], "strides": [2, 1], "dilations": [3, 2]}),
]
OTHERS: list[tuple[list[int], list[int], dict[str, list[int]]]] = [
    ([3, 2], [2, 3], {"pads": [0, 2, 1, 0]}),
    ([7], [3], {"strides": [2], "pads": [1, 0]}),
    ([3, 3, 2], [2, 2, 1], {"strides": [2, 1, 1], "pads": [1, 0, 0, 0, 0, 1]}),
]


def columns(image: list[int], block: list[int], attributes: dict[str, list[int]], channels: int = 2) -> np.ndarray:
    rank = len(image)
    ones, zeros = [1] * rank, [0] * 2 * rank
    pads = np.reshape(attributes.get("pads", zeros), (2, rank)).sum(0)
    extents = [(b - 1) * d + 1 for b, d in zip(block, attributes.get("dilations", ones), strict=True)]
    strides = attributes.get("strides", ones)
    counts = [(i + p - e) // s + 1 for i, p, e, s in zip(image, pads, extents, strides, strict=True)]
    shape = (2, channels * int(np.prod(block)), int(np.prod(counts)))
    return np.random.default_rng(len(image)).standard_normal(shape)


@pytest.mark.parametrize(("image", "block", "attributes"), CASES)
def test_as_fold(image: list[int], block: list[int], attributes: dict[str, Any]) -> None:
    pads = attributes.get("pads", [0, 0])[:2]

    def fold(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        return torch.nn.functional.fold(x, image, block, dilation=dilations, padding=pads, stride=strides)

    check_rule(
        "Col2Im",
        [columns(image, block, attributes), np.array(image), np.array(block)],
        attributes=attributes,
        constants=[1, 2],
        torch_function=fold,
    )


def test_sizes_that_are_computed() -> None:
    image, block, attributes = CASES[-1]
    arrays = [columns(image, block, attributes, channels=1), np.array(image), np.array(block)]
    check_rule("Col2Im", arrays, attributes=attributes, static=[1, 2], second_order=False)


@pytest.mark.parametrize(("image", "block", "attributes"), OTHERS)
def test_other_ranks_and_unequal_pads(image: list[int], block: list[int], attributes: dict[str, Any]) -> None:
    check_rule(
        "Col2Im",
        [columns(image, block, attributes, channels=1), np.array(image), np.array(block)],
        attributes=attributes,
        constants=[1, 2],
    )
