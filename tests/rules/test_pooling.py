"""Rules of the pooling operators. Samples are far apart, so that no finite difference changes a maximum.

The oracle for values is PyTorch where it has the form, and finite differences of the operator always.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_rule

POOLS = {1: (F.max_pool1d, F.avg_pool1d), 2: (F.max_pool2d, F.avg_pool2d), 3: (F.max_pool3d, F.avg_pool3d)}


def sample(*shape: int) -> np.ndarray:
    """Distinct values, shuffled."""
    count = int(np.prod(shape))
    return (np.random.default_rng(count).permutation(count) / count * 4 - 2 + 0.01).reshape(shape)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 2, 6), {"kernel_shape": [2], "strides": [2]}),
    ((1, 2, 7), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    ((2, 2, 4, 6), {"kernel_shape": [2, 3], "strides": [2, 3]}),
    ((1, 2, 5, 5), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((1, 2, 5, 4), {"kernel_shape": [2, 2]}),
    ((1, 1, 5, 6), {"kernel_shape": [2, 2], "strides": [3, 3]}),
    ((1, 2, 6, 5), {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ((1, 1, 4, 4, 4), {"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
    ((1, 1, 3, 4, 5), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 2], "pads": [0, 1, 1, 0, 1, 1]}),
]


def torch_options(attributes: dict[str, Any]) -> dict[str, Any]:
    rank = len(attributes["kernel_shape"])
    return {
        "kernel_size": attributes["kernel_shape"],
        "stride": attributes.get("strides", [1] * rank),
        "padding": attributes.get("pads", [0] * rank)[:rank],
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_max_pool(shape: tuple[int, ...], attributes: dict[str, Any], ceil_mode: int) -> None:
    attributes = {**attributes, "ceil_mode": ceil_mode}
    pool = POOLS[len(shape) - 2][0]
    check_rule(
        "MaxPool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=lambda x: pool(x, **torch_options(attributes)),
        step=1e-6,
    )


@pytest.mark.parametrize("attributes", [{"dilations": [2, 1]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}])
def test_max_pool_in_other_forms(attributes: dict[str, Any]) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], **attributes}
    check_rule("MaxPool", [sample(1, 2, 5, 6)], attributes=attributes, step=1e-6)


def test_max_pool_dilated_is_that_of_pytorch() -> None:
    attributes = {"kernel_shape": [2, 2], "strides": [1, 2], "dilations": [2, 3]}
    check_rule(
        "MaxPool",
        [sample(2, 1, 5, 6)],
        attributes=attributes,
        torch_function=lambda x: F.max_pool2d(x, [2, 2], [1, 2], dilation=[2, 3]),
        step=1e-6,
    )


def test_max_pool_with_indices_in_column_major_order() -> None:
    check_rule(
        "MaxPool",
        [sample(1, 2, 4, 5)],
        attributes={"kernel_shape": [2, 2], "storage_order": 1},
        torch_function=lambda x: F.max_pool2d(x, 2, 1),
        step=1e-6,
        second_order=False,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_ties_go_to_the_index_that_max_pool_returned(stride: int) -> None:
    x = np.array([[[[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]])
    check_rule(
        "MaxPool",
        [x],
        attributes={"kernel_shape": [2, 2], "strides": [stride, stride]},
        torch_function=lambda x: F.max_pool2d(x, 2, stride),
        finite_differences=False,
    )


@pytest.mark.parametrize(("shape", "attributes"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool(
    shape: tuple[int, ...], attributes: dict[str, Any], ceil_mode: int, count_include_pad: int
) -> None:
    attributes = {**attributes, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    pool = POOLS[len(shape) - 2][1]
    check_rule(
        "AveragePool",
        [sample(*shape)],
        attributes=attributes,
        torch_function=lambda x: pool(x, count_include_pad=bool(count_include_pad), **torch_options(attributes)),
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"dilations": [2, 1]},
        {"dilations": [1, 2], "pads": [1, 2, 1, 2]},
        {"dilations": [1, 2], "pads": [1, 2, 1, 2], "count_include_pad": 1},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
    ],
)
def test_average_pool_in_other_forms(attributes: dict[str, Any]) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [1, 2], **attributes}
    check_rule("AveragePool", [sample(1, 2, 5, 7)], attributes=attributes)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 3, 3), (1, 2, 2, 3, 2)])
def test_global_pools(shape: tuple[int, ...]) -> None:
    spatial = list(range(2, len(shape)))
    check_rule("GlobalAveragePool", [sample(*shape)], torch_function=lambda x: x.mean(spatial, keepdim=True))
    check_rule("GlobalMaxPool", [sample(*shape)], torch_function=lambda x: x.amax(spatial, keepdim=True), step=1e-6)


def test_ties_of_the_global_maximum_go_to_the_first() -> None:
    x = np.array([[[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]])
    check_rule(
        "GlobalMaxPool",
        [x],
        torch_function=lambda x: F.adaptive_max_pool1d(x, 1),
        finite_differences=False,
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 3, 3)])
def test_global_lp_pool(p: int, shape: tuple[int, ...]) -> None:
    spatial = list(range(2, len(shape)))
    check_rule(
        "GlobalLpPool",
        [sample(*shape)],
        attributes={"p": p},
        torch_function=lambda x: torch.linalg.vector_norm(x, p, dim=spatial, keepdim=True),
        finite_differences=False,
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(("shape", "attributes"), [w for w in WINDOWS if "pads" not in w[1] and len(w[0]) == 4])
def test_lp_pool(p: int, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    def expected(x: torch.Tensor) -> torch.Tensor:
        size, stride = attributes["kernel_shape"], attributes.get("strides", [1, 1])
        return (F.avg_pool2d(x.abs() ** p, size, stride) * np.prod(size)) ** (1 / p)

    check_rule(
        "LpPool",
        [sample(*shape)],
        attributes={**attributes, "p": p},
        torch_function=expected,
        finite_differences=False,
        runtime_dtypes=(np.float32,),
    )
