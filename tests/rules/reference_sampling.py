"""Sampling operators for the reference evaluator: in the precision of their input, over any number of axes."""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun


class GridSample(OpRun):
    """GridSample by products with one dense matrix an axis.

    The evaluator's own rounds coordinates to float32, and in cubic mode with border padding it clips the coordinate
    where PyTorch and ONNX Runtime clip each of the four elements.
    """

    def _run(self, x, grid, mode=None, padding_mode=None, align_corners=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        points = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        y = np.broadcast_to(x[:, None], (*points.shape[:2], *x.shape[1:]))
        for axis, size in reversed(list(enumerate(x.shape[2:]))):
            weights = _weights(points[:, :, -1 - axis], size, mode, padding_mode, align_corners)
            y = np.einsum("bpc...s,bps->bpc...", y, weights)
        return (y.swapaxes(1, 2).reshape(*x.shape[:2], *grid.shape[1:-1]),)


class MaxRoiPool(OpRun):
    """MaxRoiPool, which the evaluator lacks."""

    def _run(self, x, rois, pooled_shape=None, spatial_scale=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        y = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        for region, (image, *corners) in enumerate(rois):
            scaled = np.array(corners) * spatial_scale
            left, top, right, bottom = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
            rows = _bins(top, bottom, pooled_shape[0], x.shape[2])
            columns = _bins(left, right, pooled_shape[1], x.shape[3])
            for row, column in np.ndindex(*pooled_shape):
                window = x[int(image), :, rows[row], columns[column]]
                y[region, :, row, column] = window.max((1, 2)) if window.size else 0
        return (y,)


def _bins(start: float, end: float, count: int, size: int) -> list[slice]:
    """The elements of each bin along an axis of *size*."""
    length = max(end - start + 1, 1) / count
    edges = [(np.floor(index * length), np.ceil((index + 1) * length)) for index in range(count)]
    return [slice(*(int(min(max(start + edge, 0), size)) for edge in pair)) for pair in edges]


def _weights(normalized: np.ndarray, size: int, mode: str, padding: str, aligned: bool) -> np.ndarray:
    """The weight of each element along an axis of *size*: (…, size)."""
    at = (normalized + 1) / 2 * (size - 1) if aligned else ((normalized + 1) * size - 1) / 2
    if mode == "nearest":
        taps, weights = np.rint(at)[..., None], np.ones((*at.shape, 1))
    else:
        reach = 2 if mode == "cubic" else 1
        taps = np.floor(at)[..., None] + np.arange(1 - reach, reach + 1)
        distances = np.abs(at[..., None] - taps)
        weights = _keys(distances) if mode == "cubic" else 1 - distances
    if padding == "border" or (size == 1 and aligned):
        taps = np.clip(taps, 0, size - 1)
    while padding == "reflection" and np.any((taps < 0) | (taps >= size)):
        taps = np.where(taps < 0, (0 if aligned else -1) - taps, taps)
        taps = np.where(taps >= size, 2 * size - (2 if aligned else 1) - taps, taps)
    return np.einsum("...t,...ts->...s", weights, taps[..., None] == np.arange(size))


def _keys(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """The kernel of cubic convolution (R. Keys, 1981)."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return np.where(distance <= 1, near, a * (distance**3 - 5 * distance**2 + 8 * distance - 4))
