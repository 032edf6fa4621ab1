"""Winograd's minimal filtering: a convolution by a 3 x 3 kernel with 4 multiplications an element instead of 9.

The result is cut into tiles of 2 x 2. Each is a linear function of a tile of 4 x 4 of the signal, neighbouring ones
overlapping by 2, and in the right basis an elementwise product:

    tile of the result = Rᵀ [(K w Kᵀ) ⊙ (Sᵀ tile of the signal S)] R

Summed over the channels, the elementwise products of all tiles are 16 products of matrices. The bases hold only 0, ±1
and ±1/2, so that rounding is that of the direct sum.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015, arXiv:1509.09308, F(2×2, 3×3);
S, K and R are their B, G and A.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tape import Tensor

SIGNAL = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
RESULT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
"""Sᵀ, K and Rᵀ."""


def convolve_in_tiles(x: Tensor, w: Tensor, pads: Sequence[int]) -> Tensor:
    """Conv of *x* (N, C, H, W) and *w* (M, C, 3, 3) at stride 1; all sizes but N are known.

    The transforms are products by constant matrices: of both axes of the signal, which has no tiles yet, of the
    kernel at once, and of both axes of the result. Their own VJPs, and those of the 16 products, are the convolution's.

    Args:
        pads: at the beginning of H and W, then at their end.
    """
    op = x.op
    many, channels, height, width = (dim for dim in (w.shape[0], *x.shape[1:]) if isinstance(dim, int))
    tall, wide = height + pads[0] + pads[2] - 2, width + pads[1] + pads[3] - 2
    down, across = -(-tall // 2), -(-wide // 2)

    by_rows = op.constant(_tiles_of_signal(height, pads[0], down), x.dtype)
    by_columns = op.constant(_tiles_of_signal(width, pads[1], across).T, x.dtype)
    columns = (x @ by_columns).reshape([-1, channels, height, 4, across]).transpose([2, 3, 1, 0, 4])
    tiles = (by_rows @ columns.reshape([height, -1])).reshape([4, down, 4, channels, -1])
    tiles = tiles.transpose([0, 2, 3, 1, 4]).reshape([16, channels, -1])

    kernels = op.Gemm(op.constant(np.kron(KERNEL, KERNEL), x.dtype), w.reshape([-1, 9]), transB=1)
    products = kernels.reshape([16, many, channels]) @ tiles

    rows = op.constant(RESULT, x.dtype) @ products.reshape([4, -1])
    rows = rows.reshape([2, 4, many, down, -1, across]).transpose([4, 2, 3, 0, 1, 5])
    rows = rows.reshape([-1, many, 2 * down, 4 * across])
    y = rows @ op.constant(_tiles_of_result(across)[:, :wide], x.dtype)
    return y if tall % 2 == 0 else op.Slice(y, op.ints([0]), op.ints([tall]), op.ints([2]))


def _tiles_of_signal(size: int, before: int, tiles: int) -> np.ndarray:
    """Sᵀ for each tile of an axis that is padded: (4 · tiles, size)."""
    matrix = np.zeros((4, tiles, size))
    for tile in range(tiles):
        for tap in range(4):
            position = 2 * tile + tap - before
            if 0 <= position < size:
                matrix[:, tile, position] = SIGNAL[:, tap]
    return matrix.reshape(-1, size)


def _tiles_of_result(tiles: int) -> np.ndarray:
    """R for each tile of an axis: (4 · tiles, 2 · tiles)."""
    matrix = np.zeros((4, tiles, 2 * tiles))
    for tile in range(tiles):
        matrix[:, tile, 2 * tile : 2 * tile + 2] = RESULT.T
    return matrix.reshape(-1, 2 * tiles)
