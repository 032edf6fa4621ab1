"""ExpandContrib: products with weights of few bits against ONNX Runtime's kernel and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .contrib_checking import check_expansion, sample, stays

ROWS, BLOCK = 6, 16


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Several integers a byte along the last axis, the first one in the lowest bits."""
    count = 8 // bits
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], -values.shape[-1] % count), np.uint8)], -1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(padded.reshape(*padded.shape[:-1], -1, count) << shifts, -1).astype(np.uint8)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("columns", [48, 40], ids=["whole blocks", "part of a block"])
@pytest.mark.parametrize("zeros", ["none", "integers", "floats"])
def test_mat_mul_n_bits(bits: int, columns: int, zeros: str) -> None:
    random, blocks = np.random.default_rng([bits, columns]), -(-columns // BLOCK)
    integers = random.integers(0, 2**bits, (ROWS, blocks, BLOCK), np.uint8)
    scales = random.uniform(0.1, 0.2, (ROWS, blocks)) / 2**bits
    points = {
        "none": np.full((ROWS, blocks), 2 ** (bits - 1)),
        "integers": random.integers(0, 2**bits, (ROWS, blocks)),
        "floats": random.uniform(0, 2**bits, (ROWS, blocks)),
    }[zeros]
    weight = ((integers - points[..., None]) * scales[..., None]).reshape(ROWS, -1)[:, :columns]
    bias = sample(ROWS)

    def function(x, _b, _s, _p, _g, bias):  # type: ignore[no-untyped-def]
        return x @ torch.tensor(weight).T + bias

    check_expansion(
        "MatMulNBits",
        [
            sample(2, 3, columns),
            packed(integers, bits),
            scales,
            {"none": None, "integers": packed(points.astype(np.uint8), bits), "floats": points}[zeros],
            None,
            bias,
        ],
        function,
        attributes={"K": columns, "N": ROWS, "bits": bits, "block_size": BLOCK},
        wrt=[0, 5],
        constants=(1, 2, *(() if zeros == "none" else (3,))),
        static=(5,),
        kernel_dtypes=() if bits == 8 and zeros == "floats" else (np.float32,),
    )


def test_weights_that_are_computed_stay() -> None:
    attributes = {"K": 16, "N": 2, "bits": 4, "block_size": 16}
    assert stays("MatMulNBits", [sample(3, 16), np.zeros((2, 1, 8), np.uint8), sample(2, 1)], attributes=attributes)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_quantization_in_other_sizes(dtype: type) -> None:
    """Only the scale of what is dequantized has a gradient."""
    x, zero = np.arange(12).reshape(3, 4).astype(dtype), np.array([1, 2, 3, 4], dtype)

    def function(x, scale, zero):  # type: ignore[no-untyped-def]
        return (x.double() - zero.double()) * scale

    check_expansion("DequantizeLinear", [x, sample(4), zero], function, attributes={"axis": 1}, static=(1, 2))
    check_expansion(
        "QuantizeLinear",
        [10 * sample(3, 4), np.array(0.1), np.array(2, dtype)],
        None,
        static=(1, 2),
    )
