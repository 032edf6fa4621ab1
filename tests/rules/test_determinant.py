"""Det against its contract, singular matrices included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .checking import check_rule


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (2, 3, 3), (2, 2, 2, 2), (5, 5)])
def test_determinants(shape: tuple[int, ...]) -> None:
    a = np.random.default_rng([3, *shape]).standard_normal(shape)
    check_rule("Det", [a], torch_function=torch.linalg.det)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_singular_matrices(rank: int) -> None:
    """The cofactors of a matrix of rank n - 1 are not zero; of a lower rank they are, but not their derivatives."""
    random = np.random.default_rng(rank)
    a = np.round(random.standard_normal((4, rank)) @ random.standard_normal((rank, 4)), 12)
    check_rule("Det", [a], step=1e-3)


def test_exactly_singular_matrix() -> None:
    """PyTorch gives zeros here; the finite differences are the cofactors."""
    check_rule("Det", [np.arange(1.0, 10.0).reshape(3, 3)], step=1e-3)
