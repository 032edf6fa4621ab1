"""ExpandContrib: the attention operators against ONNX Runtime's kernels and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .contrib_checking import check_expansion, sample, stays

BATCH, SEQUENCE, HEADS, SIZE, PAST = 2, 4, 2, 4, 3
WIDTH = HEADS * SIZE
INT = np.int32


def heads(x: torch.Tensor, count: int = HEADS) -> torch.Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attended(  # type: ignore[no-untyped-def]
    query, keys, values, *, mask=None, bias=None, causal=False, scale=None, filled=-1e4
) -> torch.Tensor:
    """Attention of (batch, heads, sequence, size) by its formula; *mask* is True where a key is valid."""
    scores = query @ keys.transpose(-1, -2) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = scores + torch.where(torch.as_tensor(mask), 0.0, filled)
    if bias is not None:
        scores = scores + bias
    if causal:
        queries, count = scores.shape[-2:]
        visible = torch.arange(count) <= torch.arange(queries)[:, None] + count - queries
        scores = torch.where(visible, scores, -torch.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


def of(*sequences: int, width: int = WIDTH, seed: int = 0) -> list[np.ndarray]:
    return [sample(BATCH, sequence, width, seed=seed + index) for index, sequence in enumerate(sequences)]


@pytest.mark.parametrize(("biased", "causal", "scale"), [(False, 0, None), (True, 0, 0.3), (True, 1, None)])
def test_multi_head_attention(biased: bool, causal: int, scale: float | None) -> None:
    bias = sample(3 * WIDTH) if biased else None

    def function(query, keys, values, bias):  # type: ignore[no-untyped-def]
        if bias is not None:
            query, keys, values = (x + b for x, b in zip((query, keys, values), bias.chunk(3), strict=True))
        return attended(heads(query), heads(keys), heads(values), causal=causal, scale=scale)

    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE, SEQUENCE, SEQUENCE), bias],
        function,
        attributes={"num_heads": HEADS, "unidirectional": causal, **({} if scale is None else {"scale": scale})},
        static=(3,),
    )


def test_cross_attention_with_wider_values() -> None:
    def function(query, keys, values, bias):  # type: ignore[no-untyped-def]
        shares = bias.split([WIDTH, WIDTH, 6])
        query, keys, values = (x + b for x, b in zip((query, keys, values), shares, strict=True))
        return attended(heads(query), heads(keys), heads(values))

    query, keys, values = *of(SEQUENCE, 5), sample(BATCH, 5, 6)
    check_expansion(
        "MultiHeadAttention",
        [query, keys, values, sample(2 * WIDTH + 6)],
        function,
        attributes={"num_heads": HEADS},
        static=(3,),
    )


VALID = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], INT)
ROWS = np.array(np.random.default_rng(1).integers(0, 2, (BATCH, SEQUENCE, 5)), INT)
NONE_VALID = np.array([[0, 0, 0, 0, 0], [1, 0, 1, 1, 0]], INT)


@pytest.mark.parametrize(
    ("mask", "valid", "bias"),
    [
        (VALID, VALID[:, None, None] > 0, None),
        (NONE_VALID, NONE_VALID[:, None, None] > 0, (BATCH, HEADS)),
        (ROWS, ROWS[:, None] > 0, (1, HEADS)),
        (np.array([3, 4], INT), VALID[:, None, None] > 0, (BATCH, 1)),
    ],
    ids=["keys", "none valid", "rows", "lengths"],
)
def test_key_padding(mask: np.ndarray, valid: np.ndarray, bias: tuple[int, int] | None) -> None:
    def function(query, keys, values, _, mask, bias=None):  # type: ignore[no-untyped-def]
        return attended(heads(query), heads(keys), heads(values), mask=valid, bias=bias, filled=-50.0)

    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE, 5, 5), None, mask, *([] if bias is None else [sample(*bias, SEQUENCE, 5)])],
        function,
        attributes={"num_heads": HEADS, "mask_filter_value": -50.0},
    )


@pytest.mark.parametrize("causal", [0, 1])
def test_present_and_past(causal: int) -> None:
    def function(query, keys, values, _b, mask, bias, past_keys, past_values):  # type: ignore[no-untyped-def]
        keys, values = torch.cat([past_keys, heads(keys)], 2), torch.cat([past_values, heads(values)], 2)
        y = attended(heads(query), keys, values, mask=mask[:, None, None] > 0, bias=bias, causal=causal)
        return y, keys, values

    past = [sample(BATCH, HEADS, PAST, SIZE, seed=seed) for seed in range(2)]
    mask = np.array([[1] * 7, [0, 0, 1, 1, 1, 1, 1]], INT)
    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE, SEQUENCE, SEQUENCE), None, mask, sample(1, HEADS, SEQUENCE, PAST + SEQUENCE), *past],
        function,
        attributes={"num_heads": HEADS, "unidirectional": causal},
        outputs=3,
    )


def test_present_without_past() -> None:
    check_expansion(
        "MultiHeadAttention",
        of(SEQUENCE, SEQUENCE, SEQUENCE),
        lambda query, keys, values: (attended(heads(query), heads(keys), heads(values)), heads(keys), heads(values)),
        attributes={"num_heads": HEADS},
        outputs=3,
    )


def test_keys_and_values_with_split_heads() -> None:
    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE), *(sample(BATCH, HEADS, 5, SIZE, seed=seed) for seed in range(2))],
        lambda query, keys, values: attended(heads(query), keys, values),
        attributes={"num_heads": HEADS},
    )


@pytest.mark.parametrize("biased", [False, True])
def test_stacked_keys_and_values(biased: bool) -> None:
    bias = [sample(3 * WIDTH)] if biased else []

    def of_all(x, _k=None, _v=None, bias=None):  # type: ignore[no-untyped-def]
        shares = torch.zeros(3 * WIDTH) if bias is None else bias
        return attended(*(x[..., i, :].transpose(1, 2) + heads(shares.chunk(3)[i][None, None]) for i in range(3)))

    def of_two(query, x, _v=None, bias=None):  # type: ignore[no-untyped-def]
        return of_all(torch.cat([query.unflatten(-1, (HEADS, 1, SIZE)), x], 3), None, None, bias)

    check_expansion(
        "MultiHeadAttention",
        [sample(BATCH, SEQUENCE, HEADS, 3, SIZE), None, None, *bias],
        of_all,
        attributes={"num_heads": HEADS},
        static=(3,),
        kernel_dtypes=(),
    )
    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE), sample(BATCH, SEQUENCE, HEADS, 2, SIZE), None, *bias],
        of_two,
        attributes={"num_heads": HEADS},
        static=(3,),
        kernel_dtypes=(),
    )


def test_forms_of_multi_head_attention_that_stay() -> None:
    attributes = {"num_heads": HEADS}
    assert stays("MultiHeadAttention", of(SEQUENCE, SEQUENCE, SEQUENCE), attributes=attributes, outputs=4)
    causal = {**attributes, "unidirectional": 1}
    assert stays("MultiHeadAttention", of(SEQUENCE, 5, 5), attributes=causal)
    lengths = np.array([1, 2, 3], INT)
    assert stays("MultiHeadAttention", [*of(SEQUENCE, 5, 5), None, lengths], attributes=attributes)


ROWS_5 = np.tril(np.ones((BATCH, SEQUENCE, SEQUENCE), INT))
MASKS = {
    "none": (None, None),
    "keys": (VALID[:, :4], VALID[:, None, None, :4] > 0),
    "dummy": (np.ones((BATCH, 1), INT), None),
    "rows": (ROWS_5, ROWS_5[:, None] > 0),
    "ends": (np.array([3, 4], INT), VALID[:, None, None, :4] > 0),
    "ends and starts": (
        np.array([3, 4, 0, 1], INT),
        np.array([[1, 1, 1, 0], [0, 1, 1, 1]])[:, None, None] > 0,
    ),
}


@pytest.mark.parametrize("form", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(form: str, causal: int) -> None:
    mask, valid = MASKS[form]

    def function(x, weights, bias, *_):  # type: ignore[no-untyped-def]
        query, keys, values = (heads(part) for part in (x @ weights + bias).chunk(3, -1))
        return attended(query, keys, values, mask=valid, causal=causal)

    check_expansion(
        "Attention",
        [sample(BATCH, SEQUENCE, 6), sample(6, 3 * WIDTH), sample(3 * WIDTH), mask],
        function,
        attributes={"num_heads": HEADS, "unidirectional": causal},
        static=(1, 2),
        dynamic=form != "ends and starts",  # which of the forms it is depends on the size of the batch
    )


def test_attention_with_the_offsets_of_packed_sequences() -> None:
    offsets = np.array([3, 4, 0, 4, 8, 0, 3, 7], INT)

    def function(query, keys, values, _, mask):  # type: ignore[no-untyped-def]
        return attended(heads(query), heads(keys), heads(values), mask=VALID[:, None, None] > 0)

    check_expansion(
        "MultiHeadAttention",
        [*of(SEQUENCE, 5, 5), None, offsets],
        function,
        attributes={"num_heads": HEADS},
        dynamic=False,
    )


@pytest.mark.parametrize("biased", [True, False])
def test_attention_of_wider_values(biased: bool) -> None:
    def function(x, weights, bias=None):  # type: ignore[no-untyped-def]
        projected = x @ weights if bias is None else x @ weights + bias
        query, keys, values = (heads(part) for part in projected.split([4, 4, 6], -1))
        return attended(query, keys, values, scale=0.3)

    check_expansion(
        "Attention",
        [sample(BATCH, SEQUENCE, 6), sample(6, 14), *([sample(14)] if biased else [])],
        function,
        attributes={"num_heads": HEADS, "qkv_hidden_sizes": [4, 4, 6], "scale": 0.3},
        static=(1, 2),
        kernel_dtypes=(np.float32,) if biased else (),  # without a bias the CPU kernel crashes
    )


def test_attention_with_bias() -> None:
    def function(x, weights, bias, _mask, _past, added):  # type: ignore[no-untyped-def]
        query, keys, values = (heads(part) for part in (x @ weights + bias).chunk(3, -1))
        return attended(query, keys, values, bias=added)

    inputs = [sample(BATCH, SEQUENCE, 6), sample(6, 3 * WIDTH), sample(3 * WIDTH), None, None]
    check_expansion(
        "Attention",
        [*inputs, sample(BATCH, HEADS, SEQUENCE, SEQUENCE)],
        function,
        attributes={"num_heads": HEADS},
        static=(1, 2),
    )


@pytest.mark.parametrize("past", [False, True])
def test_present_and_past_of_attention(past: bool) -> None:
    def function(x, weights, bias, _mask=None, past=None):  # type: ignore[no-untyped-def]
        query, keys, values = (heads(part) for part in (x @ weights + bias).chunk(3, -1))
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        return attended(query, keys, values, causal=True), torch.stack([keys, values])

    check_expansion(
        "Attention",
        [
            sample(BATCH, SEQUENCE, 6),
            sample(6, 3 * WIDTH),
            sample(3 * WIDTH),
            *([None, sample(2, BATCH, HEADS, PAST, SIZE)] if past else []),
        ],
        function,
        attributes={"num_heads": HEADS, "unidirectional": 1},
        outputs=2,
        static=(1, 2),
    )


def test_mask_of_all_positions() -> None:
    """The mask that Megatron's models have, which the CPU kernel refuses."""
    mask = np.tril(np.ones((BATCH, 1, 9, 9), INT))

    def function(x, weights, bias, mask, past):  # type: ignore[no-untyped-def]
        query, keys, values = (heads(part) for part in (x @ weights + bias).chunk(3, -1))
        keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        return attended(query, keys, values, mask=mask[:, :, PAST : PAST + SEQUENCE, : PAST + SEQUENCE] > 0)

    past = sample(2, BATCH, HEADS, PAST, SIZE)
    check_expansion(
        "Attention",
        [sample(BATCH, SEQUENCE, 6), sample(6, 3 * WIDTH), sample(3 * WIDTH), mask, past],
        function,
        attributes={"num_heads": HEADS},
        static=(1, 2),
        kernel_dtypes=(),
    )


def test_forms_of_attention_that_stay() -> None:
    inputs = [sample(BATCH, SEQUENCE, 6), sample(6, 3 * WIDTH), sample(3 * WIDTH)]
    for attribute in ("do_rotary", "past_present_share_buffer"):
        assert stays("Attention", inputs, attributes={"num_heads": HEADS, attribute: 1})
