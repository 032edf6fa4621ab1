"""CumSum, CumProd and Range against their contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .checking import check_rule

DIRECTIONS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def accumulate(op_type: str, x: torch.Tensor, axis: int, exclusive: int, reverse: int) -> torch.Tensor:
    accumulated = torch.cumsum if op_type == "CumSum" else torch.cumprod
    if reverse:
        x = x.flip(axis)
    if exclusive:
        neutral = torch.full_like(x.narrow(axis, 0, 1), 0.0 if op_type == "CumSum" else 1.0)
        x = torch.cat([neutral, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    result = accumulated(x, axis)
    return result.flip(axis) if reverse else result


@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
@pytest.mark.parametrize(("exclusive", "reverse"), DIRECTIONS)
@pytest.mark.parametrize(("shape", "axis"), [((5,), 0), ((2, 3), 0), ((2, 3), -1), ((2, 3, 2), 1), ((2, 1), 1)])
@pytest.mark.parametrize("constant", [True, False])
def test_accumulations(
    op_type: str, exclusive: int, reverse: int, shape: tuple[int, ...], axis: int, constant: bool
) -> None:
    x = np.random.default_rng([7, *shape]).uniform(0.5, 1.5, shape)
    check_rule(
        op_type,
        [x, np.array(axis)],
        attributes={"exclusive": exclusive, "reverse": reverse},
        constants=[1] if constant else [],
        torch_function=lambda x, _: accumulate(op_type, x, axis, exclusive, reverse),
    )


@pytest.mark.parametrize(("exclusive", "reverse"), DIRECTIONS)
@pytest.mark.parametrize(
    "x",
    [
        [2.0, 0.0, 3.0, -1.0],
        [0.0, 2.0, 3.0],
        [2.0, 3.0, 0.0],
        [2.0, 0.0, 3.0, 0.0, 0.5],
        [0.0, 0.0, 2.0],
        [1.5, 0.0, 0.0, 0.0, 2.0],
        [0.0, 0.0, 0.0],
    ],
)
def test_cumulative_products_with_zeros(x: list[float], exclusive: int, reverse: int) -> None:
    check_rule(
        "CumProd",
        [np.array(x), np.array(0)],
        attributes={"exclusive": exclusive, "reverse": reverse},
        constants=[1],
        torch_function=lambda x, _: accumulate("CumProd", x, 0, exclusive, reverse),
    )


@pytest.mark.parametrize(("start", "limit", "delta"), [(0.5, 3.1, 0.4), (2.0, -1.1, -0.75), (1.0, 1.5, 2.0)])
def test_range(start: float, limit: float, delta: float) -> None:
    def function(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        count = int(torch.ceil((limit - start) / delta))
        return start + delta * torch.arange(count)

    check_rule(
        "Range",
        [np.array(start), np.array(limit), np.array(delta)],
        wrt=[0, 2],
        torch_function=function,
        runtime_dtypes=[np.float32],
    )
