"""Where, Max, Min and Clip against their contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest
import torch

from .checking import check_edge_values, check_rule

BINARY = {"Max": torch.maximum, "Min": torch.minimum}


def distinct(*shape: int, offset: float = 0.0) -> np.ndarray:
    """Shuffled multiples of 0.25, so that operands of different offsets never tie."""
    count = int(np.prod(shape))
    values = np.random.default_rng([2, *shape, int(100 * offset)]).permutation(count) - count / 2
    return np.asarray(0.25 * values + offset).reshape(shape)


@pytest.mark.parametrize(
    ("condition", "a", "b"),
    [
        ((), (), ()),
        ((2, 3), (2, 3), (2, 3)),
        ((3,), (2, 3), (2, 1)),
        ((2, 1), (3,), ()),
        ((2, 3), (), ()),
        ((), (2, 3), (3,)),
        ((4, 1, 1), (2, 1), (1, 3)),
    ],
)
def test_where(condition: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> None:
    mask = np.asarray(np.random.default_rng(3).integers(0, 2, condition).astype(bool))
    check_rule("Where", [mask, distinct(*a), distinct(*b, offset=0.1)], torch_function=torch.where)


def test_where_keeps_infinities_of_the_other_branch_out() -> None:
    mask = np.array([True, False, True])
    branches = [np.array([1.0, np.inf, 2.0]), np.array([np.nan, 1.0, np.inf])]
    check_edge_values("Where", [mask, *branches], torch.where)


@pytest.mark.parametrize("op_type", ["Max", "Min"])
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3)],
        [(), ()],
        [(2, 3), (2, 3)],
        [(2, 3), (3,)],
        [(3,), (2, 1)],
        [(), (4,)],
        [(2, 3), (3,), ()],
        [(2, 1), (3,), (4, 1, 1), (2, 3)],
    ],
)
def test_extrema(op_type: str, shapes: list[tuple[int, ...]]) -> None:
    operands = [distinct(*shape, offset=0.05 * index) for index, shape in enumerate(shapes)]
    check_rule(op_type, operands, torch_function=lambda *xs: reduce(BINARY[op_type], xs[1:], xs[0] * 1.0))


@pytest.mark.parametrize("op_type", ["Max", "Min"])
@pytest.mark.parametrize("index", [0, 1])
def test_extrema_with_one_active_operand(op_type: str, index: int) -> None:
    check_rule(op_type, [distinct(2, 3), distinct(3, offset=0.1)], wrt=[index], torch_function=BINARY[op_type])


@pytest.mark.parametrize("op_type", ["Max", "Min"])
def test_two_that_tie_share_evenly(op_type: str) -> None:
    a, b = np.array([1.0, 2.0, -1.0, 0.0]), np.array([1.0, 3.0, -1.0, -0.0])
    check_edge_values(op_type, [a, b], BINARY[op_type])
    check_edge_values(op_type, [a, np.array(1.0)], BINARY[op_type])


@pytest.mark.parametrize(("op_type", "function"), [("Max", torch.amax), ("Min", torch.amin)])
def test_all_that_tie_share_evenly(op_type: str, function: Callable[..., torch.Tensor]) -> None:
    operands = [np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0])]
    check_edge_values(op_type, operands, lambda *xs: function(torch.stack(xs), 0))


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.3), (-0.3, None), (None, 0.3), (None, None), (0.3, -0.3)])
@pytest.mark.parametrize("constant", [True, False])
def test_clip(shape: tuple[int, ...], low: float | None, high: float | None, constant: bool) -> None:
    bounds = [None if bound is None else np.array(bound) for bound in (low, high)]

    def function(x: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        named = zip(
            [name for name in ("min", "max") if {"min": low, "max": high}[name] is not None], given, strict=True
        )
        return torch.clamp(x, **dict(named)) if given else x * 1.0

    check_rule(
        "Clip",
        [distinct(*shape) + 0.1, *bounds],
        constants=[index + 1 for index, bound in enumerate(bounds) if constant and bound is not None],
        torch_function=function,
    )


@pytest.mark.parametrize(("low", "high"), [(1.0, 2.0), (1.0, 1.0), (2.0, 1.0)])
def test_clip_at_constant_bounds(low: float, high: float) -> None:
    """Bounds that are known to be in order are compared with at once, through the output."""
    x = np.array([0.0, 1.0, 1.5, 2.0, 3.0, np.inf, -np.inf, np.nan])
    bounds = [np.array(low), np.array(high)]
    check_edge_values("Clip", [x, *bounds], lambda x, *_: torch.clamp(x, low, high), constants=[1, 2])


def test_clip_at_its_bounds() -> None:
    x = np.array([0.0, 1.0, 1.5, 2.0, 3.0])
    check_edge_values("Clip", [x, np.array(1.0), np.array(2.0)], torch.clamp)
    check_edge_values("Clip", [x, np.array(2.0), np.array(1.0)], torch.clamp)
    check_edge_values("Clip", [x, np.array(1.0), np.array(1.0)], torch.clamp)
    check_edge_values("Clip", [x, np.array(1.0)], lambda x, low: torch.clamp(x, min=low))
    check_edge_values("Clip", [x, None, np.array(1.0)], lambda x, high: torch.clamp(x, max=high))
