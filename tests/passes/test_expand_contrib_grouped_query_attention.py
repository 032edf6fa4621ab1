"""ExpandContrib: GroupQueryAttention against ONNX Runtime's kernel and PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .contrib_checking import check_expansion, sample, stays
from .test_expand_contrib_embedding import rotated

BATCH, SEQUENCE, HEADS, KEY_HEADS, SIZE, BUFFER = 2, 4, 4, 2, 16, 5
ATTRIBUTES = {"num_heads": HEADS, "kv_num_heads": KEY_HEADS}
CACHES = [sample(9, SIZE // 2), sample(9, SIZE // 2, seed=1)]
INT = np.int32


def grouped(
    *,
    past_lengths: list[int],
    rotary: str = "",
    positions: torch.Tensor | None = None,
    window: int = 0,
    softcap: float = 0.0,
    scale: float = 1 / math.sqrt(SIZE),
    causal: bool = True,
    sink: bool = False,
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The formula, one sequence of the batch after the other."""

    def function(query, keys, values, old_keys=None, old_values=None, *more):  # type: ignore[no-untyped-def]
        cosine, sine, _, bias, sinks = (*more[2:], *[None] * 5)[:5]
        if keys is None:
            query, keys, values = query.split([HEADS * SIZE, KEY_HEADS * SIZE, KEY_HEADS * SIZE], -1)
        query, keys, values = (x.unflatten(-1, (-1, SIZE)) for x in (query, keys, values))
        length = query.shape[1]
        offsets = torch.tensor(past_lengths)[:, None]
        if rotary:
            places = offsets + torch.arange(length) if positions is None else positions
            query, keys = (rotated(x, places, cosine, sine, rotary == "interleaved") for x in (query, keys))
        query, keys, values = (x.transpose(1, 2) for x in (query, keys, values))
        results, capacity = [], max(past + length for past in past_lengths)
        capacity = capacity if old_keys is None else max(capacity, old_keys.shape[2])
        for b, past in enumerate(past_lengths):
            own = [keys[b], values[b]]
            if old_keys is not None:
                own = [torch.cat([old[b, :, :past], x], 1) for old, x in zip((old_keys, old_values), own, strict=True)]
            all_keys, all_values = (x.repeat_interleave(HEADS // KEY_HEADS, 0) for x in own)
            scores = query[b] @ all_keys.transpose(-1, -2) * scale
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            if bias is not None:
                scores = scores + bias[min(b, len(bias) - 1), :, :, : scores.shape[-1]]
            distance = torch.arange(length)[:, None] + past - torch.arange(past + length)
            visible = (distance >= 0) & (distance < (window or 99)) if causal else distance < 99
            scores = torch.where(visible, scores, -torch.inf)
            if sink:
                column = (torch.zeros(HEADS) if sinks is None else sinks)[:, None, None].expand(-1, length, 1)
                scores = torch.cat([scores, column], -1)
            probabilities = scores.softmax(-1)[..., : past + length]
            y = (probabilities @ all_values).transpose(0, 1).flatten(1)
            results.append([y, *(F.pad(x, (0, 0, 0, capacity - x.shape[1])) for x in own)])
        return tuple(torch.stack(each) for each in zip(*results, strict=True))

    return function


def inputs(past_lengths: list[int], length: int, *, buffer: bool = False, stacked: bool = False) -> list[Any]:
    width, key_width = HEADS * SIZE, KEY_HEADS * SIZE
    separate = [sample(BATCH, length, w, seed=i) for i, w in enumerate((width, key_width, key_width))]
    projected = [sample(BATCH, length, width + 2 * key_width), None, None] if stacked else separate
    past = [sample(BATCH, KEY_HEADS, BUFFER, SIZE, seed=seed) for seed in range(2)] if buffer else [None, None]
    ends = np.array([past + length - 1 for past in past_lengths], INT)
    return [*projected, *past, ends, np.array([ends.max() + 1], INT)]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("rotary", ["", "halves", "interleaved"])
def test_prompt(stacked: bool, rotary: str) -> None:
    given = inputs([0, 0], SEQUENCE, stacked=stacked)
    check_expansion(
        "GroupQueryAttention",
        [*given, *(CACHES if rotary else [])],
        grouped(past_lengths=[0, 0], rotary=rotary),
        attributes={**ATTRIBUTES, "do_rotary": int(bool(rotary)), "rotary_interleaved": int(rotary == "interleaved")},
        outputs=3,
        constants=(6,),
        static=(7, 8),
        kernel_dtypes=(np.float32, np.float16),
    )


@pytest.mark.parametrize("lengths", [[3, 3], [1, 4]], ids=["even", "ragged"])
@pytest.mark.parametrize("rotary", ["", "halves"])
def test_next_token(lengths: list[int], rotary: str) -> None:
    check_expansion(
        "GroupQueryAttention",
        [*inputs(lengths, 1, buffer=True), *(CACHES if rotary else [])],
        grouped(past_lengths=lengths, rotary=rotary),
        attributes={**ATTRIBUTES, "do_rotary": int(bool(rotary))},
        outputs=3,
        static=(7, 8),
    )


def test_buffer_that_grows() -> None:
    check_expansion(
        "GroupQueryAttention",
        inputs([BUFFER, BUFFER], 1, buffer=True),
        grouped(past_lengths=[BUFFER, BUFFER]),
        attributes=ATTRIBUTES,
        outputs=3,
    )


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({"local_window_size": 2}, {"window": 2}),
        ({"softcap": 0.7}, {"softcap": 0.7}),
        ({"scale": 0.4}, {"scale": 0.4}),
        ({"smooth_softmax": 1}, {"sink": True}),
        ({"causal": 0}, {"causal": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("decoding", [False, True])
def test_options(options: dict[str, Any], formula: dict[str, Any], decoding: bool) -> None:
    lengths, length = ([3, 4], 1) if decoding else ([0, 0], SEQUENCE)
    check_expansion(
        "GroupQueryAttention",
        inputs(lengths, length, buffer=decoding),
        grouped(past_lengths=lengths, **formula),
        attributes={**ATTRIBUTES, **options},
        outputs=3,
    )


@pytest.mark.parametrize("shape", [(1, 1), (BATCH, HEADS)])
@pytest.mark.parametrize("decoding", [False, True])
def test_bias_and_sinks(shape: tuple[int, int], decoding: bool) -> None:
    lengths, length = ([2, 3], 1) if decoding else ([0, 0], SEQUENCE)
    bias = sample(*shape, length, lengths[-1] + length)
    check_expansion(
        "GroupQueryAttention",
        [*inputs(lengths, length, buffer=decoding), None, None, None, bias, sample(HEADS)],
        grouped(past_lengths=lengths, softcap=0.7, sink=True),
        attributes={**ATTRIBUTES, "softcap": 0.7},
        outputs=3,
    )


@pytest.mark.parametrize("lengths", [[0, 0], [2, 3]])
def test_positions(lengths: list[int]) -> None:
    """Of a first prompt the kernel reads the first position only."""
    length = 1 if any(lengths) else SEQUENCE
    positions = np.array([[1], [4]]) if any(lengths) else np.array([[3, 0, 0, 0], [0, 1, 2, 3]])
    read = positions if any(lengths) else np.array([[3, 4, 5, 6]] * BATCH)
    check_expansion(
        "GroupQueryAttention",
        [*inputs(lengths, length, buffer=True), *CACHES, positions],
        grouped(past_lengths=lengths, rotary="halves", positions=torch.tensor(read)),
        attributes={**ATTRIBUTES, "do_rotary": 1},
        outputs=3,
        static=(7, 8),
    )


def test_padded_prompt() -> None:
    """The rows of the padding are not defined."""
    given = inputs([0, 0], SEQUENCE, buffer=True)
    given[5] = np.array([1, 3], INT)

    def valid(index: int, array: np.ndarray) -> np.ndarray:
        rows = array if index == 0 else array.swapaxes(1, 2)
        return np.concatenate([rows[0, :2], rows[1]])

    check_expansion(
        "GroupQueryAttention",
        [*given, *CACHES],
        grouped(past_lengths=[0, 0], rotary="halves"),
        attributes={**ATTRIBUTES, "do_rotary": 1},
        outputs=3,
        static=(7, 8),
        select=valid,
    )


def test_prompt_after_a_prompt() -> None:
    given = [x[:1] if x is not None and x.ndim > 1 else x for x in inputs([2, 2], 3, buffer=True)]
    given[5] = given[5][:1]
    check_expansion(
        "GroupQueryAttention",
        [*given, *CACHES],
        grouped(past_lengths=[2], rotary="halves"),
        attributes={**ATTRIBUTES, "do_rotary": 1},
        outputs=3,
        static=(7, 8),
    )


def test_normalized_heads() -> None:
    """The CPU has no kernel of this form."""
    attention = grouped(past_lengths=[0, 0], rotary="halves")

    def function(query, keys, values, *more):  # type: ignore[no-untyped-def]
        query, keys = (
            F.rms_norm(x.unflatten(-1, (-1, SIZE)), (SIZE,), weight, 1e-3).flatten(2)
            for x, weight in zip((query, keys), more[-2:], strict=True)
        )
        return attention(query, keys, values, *more[:-2])

    weights = [sample(SIZE), sample(SIZE, seed=1)]
    check_expansion(
        "GroupQueryAttention",
        [*inputs([0, 0], SEQUENCE), *CACHES, *[None] * 5, *weights],
        function,
        attributes={**ATTRIBUTES, "do_rotary": 1, "qk_norm_epsilon": 1e-3},
        outputs=3,
        static=(7, 8, 14, 15),
        kernel_dtypes=(),
    )


def test_forms_that_stay() -> None:
    given = inputs([0, 0], SEQUENCE)
    assert stays("GroupQueryAttention", given, attributes={**ATTRIBUTES, "qk_output": 1}, outputs=4)
    window = {"sliding_window_cache": 1, "local_window_size": 2}
    assert stays("GroupQueryAttention", given, attributes={**ATTRIBUTES, **window}, outputs=3)
    quantized = [*given[:3], *[np.zeros((BATCH, KEY_HEADS, BUFFER, SIZE), np.int8)] * 2, *given[5:]]
    assert stays("GroupQueryAttention", quantized, attributes=ATTRIBUTES, outputs=3)
