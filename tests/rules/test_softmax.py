"""Softmax and LogSoftmax against their contract."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from .checking import check_rule

FUNCTIONS = [("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax)]
Function = Callable[[torch.Tensor, int], torch.Tensor]


@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
@pytest.mark.parametrize("axis", [0, 1, -1, -2, None])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (4, 1)])
def test_softmax(op_type: str, function: Function, axis: int | None, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(6).uniform(-2, 2, shape)
    check_rule(
        op_type,
        [x],
        attributes={} if axis is None else {"axis": axis},
        torch_function=lambda x: function(x, -1 if axis is None else axis),
    )


@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
def test_vectors(op_type: str, function: Function) -> None:
    check_rule(op_type, [np.array([0.5, -1.0, 2.0])], torch_function=lambda x: function(x, 0))


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("op_type", "function"), FUNCTIONS)
def test_masked_and_saturated_rows(op_type: str, function: Function) -> None:
    """-inf where attention is masked, and logits whose exponentials overflow."""
    x = np.array([[0.0, -np.inf, 0.5], [500.0, -500.0, 499.0]])
    check_rule(op_type, [x], torch_function=lambda x: function(x, -1), finite_differences=False)
