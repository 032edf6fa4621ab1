"""ScatterElements and ScatterND against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from .checking import check_rule

TORCH_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def runtime_dtypes(reduction: str) -> tuple[type, ...]:
    """ONNX Runtime itself cannot reduce in float16, so a model that holds such a forward node cannot run."""
    return (np.float32, np.float16) if reduction == "none" else (np.float32,)


def scatter_elements(axis: int, reduction: str) -> Callable[..., torch.Tensor]:
    def function(data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        index = indices % data.shape[axis]
        if reduction == "none":
            return data.scatter(axis, index, updates)
        return data.scatter_reduce(axis, index, updates, TORCH_REDUCTIONS[reduction])

    return function


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(axis: int, reduction: str) -> None:
    indices = np.array([[0, -1, 1], [2, 1, 0]])
    if reduction != "none":
        indices[0] = indices[1]
    if axis != 0:
        indices = indices.T
    check_rule(
        "ScatterElements",
        [sample(3, 3), indices, sample(*indices.shape, seed=1)],
        attributes={"axis": axis, "reduction": reduction},
        torch_function=scatter_elements(axis, reduction),
        runtime_dtypes=runtime_dtypes(reduction),
    )


@pytest.mark.parametrize(
    ("data", "updates"),
    [
        ([0.0, 2.0, 3.0], [5.0, 7.0, 11.0]),
        ([4.0, 2.0, 3.0], [0.0, 7.0, 11.0]),
        ([4.0, 2.0, 3.0], [0.0, 0.0, 11.0]),
        ([0.0, 0.0, 3.0], [0.0, 7.0, 0.0]),
    ],
)
def test_products_with_zeros(data: list[float], updates: list[float]) -> None:
    check_rule(
        "ScatterElements",
        [np.array(data), np.array([0, 0, 1]), np.array(updates)],
        attributes={"reduction": "mul"},
        torch_function=scatter_elements(0, "mul"),
        second_order=False,
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_ties_are_split_evenly(reduction: str) -> None:
    check_rule(
        "ScatterElements",
        [np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 2.0, 5.0])],
        attributes={"reduction": reduction},
        torch_function=scatter_elements(0, reduction),
        finite_differences=False,
        runtime_dtypes=(np.float32,),
    )


def scatter_nd(reduction: str) -> Callable[..., torch.Tensor]:
    """Through the flattened elements, on which PyTorch has all the reductions."""

    def function(data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(data.numel()).reshape(data.shape)
        index = positions[tuple(indices[..., axis] for axis in range(indices.shape[-1]))].reshape(-1)
        flat = data.reshape(-1)
        if reduction == "none":
            return flat.scatter(0, index, updates.reshape(-1)).reshape(data.shape)
        return flat.scatter_reduce(0, index, updates.reshape(-1), TORCH_REDUCTIONS[reduction]).reshape(data.shape)

    return function


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize(
    ("shape", "indices"),
    [
        ((4,), [[1], [-1], [0]]),
        ((3, 2), [[2], [0]]),
        ((3, 2), [[2, 1], [0, -2]]),
        ((3, 2, 2), [[[2, 1], [0, 0]], [[1, 1], [-2, 0]]]),
        ((3, 2), [2]),
    ],
)
def test_scatter_nd(reduction: str, shape: tuple[int, ...], indices: list) -> None:
    array = np.array(indices)
    if reduction != "none" and array.ndim > 1:
        array[..., :] = array[0]
    updates = sample(*array.shape[:-1], *shape[array.shape[-1] :], seed=1)
    check_rule(
        "ScatterND",
        [sample(*shape), array, updates],
        attributes={"reduction": reduction},
        torch_function=scatter_nd(reduction),
        runtime_dtypes=runtime_dtypes(reduction),
    )


CACHES = [
    ((2, 5, 3), (2, 2, 3), None, {}),
    ((2, 5, 3), (2, 2, 3), [1, 3], {}),
    ((2, 4), (2, 3), [1, 0], {"axis": 1}),
    ((3, 2, 4, 2), (3, 2, 2, 2), [3, 0, 6], {"mode": "circular"}),
    ((2, 4, 2, 2), (2, 4, 2, 2), [1, 3], {"mode": "circular", "axis": 1}),
    ((2, 2, 5), (2, 2, 2), [0, 3], {"axis": -1}),
    ((2, 2, 5), (2, 2, 3), None, {"axis": 2, "mode": "circular"}),
]


@pytest.mark.parametrize(("cache", "update", "starts", "attributes"), CACHES)
def test_tensor_scatter(
    cache: tuple[int, ...], update: tuple[int, ...], starts: list[int] | None, attributes: dict[str, object]
) -> None:
    random = np.random.default_rng(2)
    axis = int(str(attributes.get("axis", -2))) % len(cache)

    def write(past: torch.Tensor, new: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        written = []
        for row in range(cache[0]):
            first = 0 if at is None else int(at[row])
            places = (first + torch.arange(update[axis])) % cache[axis]
            written.append(past[row].index_copy(axis - 1, places, new[row]))
        return torch.stack(written)

    check_rule(
        "TensorScatter",
        [
            random.standard_normal(cache),
            random.standard_normal(update),
            *([] if starts is None else [np.array(starts)]),
        ],
        attributes=attributes,
        torch_function=write,
    )
