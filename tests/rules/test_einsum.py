"""Einsum against its contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxgrad.passes.einsum_equations import explicit_labels

from .checking import check_rule


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("b i j , b j k -> b k i", [(2, 3, 4), (2, 4, 2)]),
        ("ij->ji", [(2, 3)]),
        ("ij->j", [(2, 3)]),
        ("ij->", [(2, 3)]),
        ("ba", [(2, 3)]),
        ("i,j->ij", [(2,), (3,)]),
        ("i,i", [(3,), (3,)]),
        ("ij,k->i", [(2, 3), (4,)]),
        ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 4)]),
        ("ij,ij,ij->i", [(2, 3), (2, 3), (2, 3)]),
        ("...ij,...jk->...ik", [(2, 3, 4), (2, 4, 2)]),
        ("...ij,...jk->...ik", [(5, 1, 3, 4), (1, 2, 4, 2)]),
        ("...ij,jk", [(2, 2, 3), (3, 2)]),
        ("i...,...j->ij...", [(2, 3), (3, 4)]),
        ("...,...->...", [(2, 3), (1, 3)]),
        ("ii->i", [(3, 3)]),
        ("ii->", [(3, 3)]),
        ("ii,i->i", [(3, 3), (3,)]),
        ("iji,j->i", [(3, 2, 3), (2,)]),
        ("iii->i", [(3, 3, 3)]),
        ("...ii->...i", [(2, 3, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    check_rule(
        "Einsum",
        [sample(*shape, seed=index) for index, shape in enumerate(shapes)],
        attributes={"equation": equation},
        torch_function=lambda *operands: torch.einsum(equation, *operands),
    )


@pytest.mark.parametrize(
    ("equation", "ranks", "terms", "output"),
    [
        ("ij,jk", [2, 2], ["ij", "jk"], "ik"),
        ("b...,...a", [3, 3], ["bcd", "cda"], "cdab"),
        ("ij -> ", [2], ["ij"], ""),
    ],
)
def test_explicit_labels(equation: str, ranks: list[int], terms: list[str], output: str) -> None:
    found, result = explicit_labels(equation, ranks)
    renamed = dict(zip("".join(found), "".join(terms), strict=True))
    assert ["".join(renamed[label] for label in term) for term in found] == terms
    assert "".join(renamed[label] for label in result) == output
