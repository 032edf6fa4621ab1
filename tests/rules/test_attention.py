"""Attention against its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_rule

Inputs = list[np.ndarray | None]


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def qkv(heads: int = 2, key_heads: int = 2, queries: int = 3, keys: int = 4) -> Inputs:
    return [
        sample(2, heads, queries, 4),
        sample(2, key_heads, keys, 4, seed=1),
        sample(2, key_heads, keys, 3, seed=2),
    ]


FORWARD_NOT_IN_ORT: tuple[type, ...] = ()
"""The runtime types of cases whose forward node no kernel of ONNX Runtime 1.31 takes."""


def packed(inputs: Inputs) -> Inputs:
    return [x if x is None else x.transpose(0, 2, 1, 3).reshape(2, x.shape[2], -1) for x in inputs]


def mask_of(*shape: int) -> np.ndarray:
    mask = np.random.default_rng(5).uniform(size=shape) < 0.6
    mask[..., 0] = True
    return mask


def sdpa(**options: Any) -> Callable[..., torch.Tensor]:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True, **options)

    return function


def separate(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


@pytest.mark.parametrize("options", [{}, {"scale": 0.25}, {"is_causal": True}])
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (2, 1)])
def test_heads_apart(options: dict[str, Any], heads: int, key_heads: int) -> None:
    check_rule(
        "Attention",
        qkv(heads, key_heads),
        attributes=options,
        torch_function=sdpa(**options),
    )


@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2)])
def test_heads_packed(options: dict[str, Any], heads: int, key_heads: int) -> None:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = sdpa(**options)(separate(q, heads), separate(k, key_heads), separate(v, key_heads))
        return y.transpose(1, 2).flatten(2)

    check_rule(
        "Attention",
        packed(qkv(heads, key_heads)),
        attributes={"q_num_heads": heads, "kv_num_heads": key_heads, **options},
        torch_function=function,
    )


@pytest.mark.parametrize("shape", [(3, 4), (2, 1, 3, 4), (1, 2, 1, 4), (2, 3, 4)])
def test_boolean_masks(shape: tuple[int, ...]) -> None:
    check_rule(
        "Attention",
        [*qkv(), mask_of(*shape)],
        torch_function=sdpa(),
        runtime_dtypes=FORWARD_NOT_IN_ORT if shape[-2] == 1 else (np.float32, np.float16),
    )


@pytest.mark.parametrize("shape", [(3, 4), (2, 1, 3, 4), (1, 4, 1, 4), (4, 3, 4)])
def test_added_masks(shape: tuple[int, ...]) -> None:
    check_rule(
        "Attention",
        [*qkv(4, 2), sample(*shape)],
        torch_function=sdpa(),
        runtime_dtypes=FORWARD_NOT_IN_ORT if shape[-2] == 1 else (np.float32, np.float16),
    )


@pytest.mark.parametrize("mask", [mask_of(3, 4), sample(3, 4)])
def test_packed_heads_with_a_mask_and_unknown_sizes(mask: np.ndarray) -> None:
    check_rule(
        "Attention",
        [*packed(qkv()), mask],
        attributes={"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1},
    )


@pytest.mark.parametrize("mask", [mask_of(3, 2), sample(2, 1, 3, 2)])
def test_a_mask_shorter_than_the_keys_excludes_the_rest(mask: np.ndarray) -> None:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return sdpa()(q, k[:, :, :2], v[:, :, :2], mask)

    check_rule(
        "Attention",
        [*qkv(), mask],
        torch_function=function,
        runtime_dtypes=FORWARD_NOT_IN_ORT,
    )


@pytest.mark.parametrize("fill", [False, -np.inf])
def test_fully_masked_rows_have_zero_output_and_gradient(fill: float) -> None:
    """PyTorch's math kernel has NaN there; the specification has zero rows."""
    mask: np.ndarray = np.full((3, 4), fill) if fill else np.zeros((3, 4), bool)
    mask[1:] = 0.0 if fill else True
    check_rule("Attention", [*qkv(), mask], wrt=[0, 1, 2])


def test_float_mask_with_infinities() -> None:
    mask = np.where(mask_of(3, 4), 0.0, -np.inf)
    check_rule("Attention", [*qkv(), mask], wrt=[0, 1, 2], torch_function=sdpa())


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("outputs", [1, 3])
def test_past_keys_and_values(is_causal: int, outputs: int) -> None:
    past = [sample(2, 2, 2, 4, seed=7), sample(2, 2, 2, 3, seed=8)]

    def function(q, k, v, past_k, past_v):
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        mask = torch.ones(3, 6).tril(2).bool() if is_causal else None
        return (sdpa()(q, k, v, mask), k, v)[:outputs]

    check_rule(
        "Attention",
        [*qkv(4, 2), None, *past],
        attributes={"is_causal": is_causal},
        outputs=outputs,
        torch_function=function,
        runtime_dtypes=FORWARD_NOT_IN_ORT if outputs == 1 else (np.float32, np.float16),
    )


def test_past_keys_of_unknown_length() -> None:
    past = [sample(2, 2, 2, 4, seed=7), sample(2, 2, 2, 3, seed=8)]
    check_rule(
        "Attention",
        [*packed(qkv()), None, *past],
        attributes={"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1},
        outputs=3,
    )


def capped(mode: int, softcap: float) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor):
        raw = q @ k.mT / 2
        cap = softcap * torch.tanh(raw / softcap) if softcap else raw
        biased = cap + mask
        p = torch.softmax(biased, -1)
        return p @ v, (raw, cap, biased, p)[mode]

    return function


@pytest.mark.parametrize(("mode", "softcap"), [(0, 0.0), (1, 0.5), (1, 0.0), (2, 0.0), (2, 0.5), (3, 0.5)])
def test_softcap_and_the_score_output(mode: int, softcap: float) -> None:
    def only_y_and_scores(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, scores = capped(mode, softcap)(*inputs)
        return y, inputs[1], inputs[2], scores

    check_rule(
        "Attention",
        [*qkv(), sample(3, 4)],
        attributes={"qk_matmul_output_mode": mode, "softcap": softcap},
        outputs=4,
        torch_function=only_y_and_scores,
        runtime_dtypes=(np.float32,),
    )


@pytest.mark.parametrize("window", [(1, -1), (-1, 0), (1, 1)])
@pytest.mark.parametrize("is_causal", [0, 1])
def test_windows(window: tuple[int, int], is_causal: int) -> None:
    left, right = window

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        distance = torch.arange(4) - torch.arange(3)[:, None]
        mask = torch.ones(3, 4, dtype=torch.bool)
        if left >= 0:
            mask &= distance >= -left
        if right >= 0:
            mask &= distance <= right
        if is_causal:
            mask &= distance <= 0
        return sdpa()(q, k, v, mask)

    check_rule(
        "Attention",
        qkv(),
        attributes={"left_window_size": left, "right_window_size": right, "is_causal": is_causal},
        torch_function=function,
        runtime_dtypes=FORWARD_NOT_IN_ORT,
    )


@pytest.mark.parametrize("is_causal", [0, 1])
def test_lengths_without_padding(is_causal: int) -> None:
    lengths = np.array([4, 2])

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        rows = []
        for sample_, length in enumerate(lengths):
            mask = torch.ones(2, length).tril(int(length) - 2).bool() if is_causal else None
            one = slice(sample_, sample_ + 1)
            rows.append(sdpa()(q[one], k[one, :, :length], v[one, :, :length], mask))
        return torch.cat(rows)

    check_rule(
        "Attention",
        [*qkv(queries=2), None, None, None, lengths],
        attributes={"is_causal": is_causal},
        torch_function=function,
    )


def test_softmax_precision() -> None:
    check_rule(
        "Attention",
        qkv(),
        attributes={"softmax_precision": 11},
        torch_function=sdpa(),
        runtime_dtypes=FORWARD_NOT_IN_ORT,
    )
