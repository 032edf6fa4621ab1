"""Batches: every sample once an epoch, in an order that the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxgrad.passes.errors import InputError
from onnxgrad.runtime.batches import Batches

ARRAYS = {"x": np.arange(20.0).reshape(10, 2), "labels": np.arange(10)}


def labels(batches: Batches) -> list[list[int]]:
    return [batch["labels"].tolist() for batch in batches]


def test_in_order_with_a_smaller_last_batch() -> None:
    batches = Batches(ARRAYS, 4)
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(batches) == 3
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_drop_last() -> None:
    batches = Batches(ARRAYS, 4, drop_last=True)
    assert labels(batches) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(batches) == 2
    assert len(Batches(ARRAYS, 5, drop_last=True)) == 2


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = Batches(ARRAYS, 4, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return labels(batches)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert orders == [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({str(one) for one in orders}) == 6


def test_set_epoch_changes_nothing_without_shuffling() -> None:
    batches = Batches(ARRAYS, 4)
    batches.set_epoch(3)
    assert labels(batches)[0] == [0, 1, 2, 3]


@given(samples=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 2**32), shuffle=st.booleans())
def test_every_sample_once_and_rows_stay_together(samples: int, size: int, seed: int, shuffle: bool) -> None:
    arrays = {"x": np.arange(samples * 2.0).reshape(samples, 2), "labels": np.arange(samples)}
    batches = Batches(arrays, size, shuffle=shuffle, seed=seed)
    seen = list(batches)
    assert len(seen) == len(batches)
    assert sorted(np.concatenate([batch["labels"] for batch in seen]).tolist()) == list(range(samples))
    for batch in seen:
        np.testing.assert_array_equal(batch["x"][:, 0], 2.0 * batch["labels"])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.ones((3, 2)), "y": np.ones(4)}, {"batch_size": 2}, "'x' has 3, 'y' has 4"),
        ({}, {"batch_size": 2}, "no samples"),
        ({"x": np.ones((0, 2))}, {"batch_size": 2}, "no samples"),
        ({"x": np.array(1.0)}, {"batch_size": 2}, "no samples"),
        (ARRAYS, {"batch_size": 0}, "batch_size is at least 1"),
        (ARRAYS, {"batch_size": 2, "seed": -1}, "seed is at least 0"),
        (ARRAYS, {"batch_size": 11, "drop_last": True}, "10 samples, which fill no batch of 11"),
    ],
)
def test_nonsense_is_refused(arrays: Mapping[str, np.ndarray], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Batches(arrays, **options)
