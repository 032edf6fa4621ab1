"""Sampling operators for the reference evaluator: in the precision of their input, over any number of axes."""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun


class DeformConv(OpRun):
    """DeformConv, one tap of the kernel after the other; the evaluator's own is for two axes."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        offset,
        b=None,
        mask=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        offset_group=None,
        pads=None,
        strides=None,
    ) -> tuple[np.ndarray]:
        batch, rank, kernel, out = x.shape[0], x.ndim - 2, w.shape[2:], offset.shape[2:]
        strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
        grouped = x.reshape(batch * offset_group, -1, *x.shape[2:])
        offset = offset.reshape(batch * offset_group, *kernel, rank, *out)
        masks = None if mask is None else mask.reshape(batch * offset_group, *kernel, 1, -1)
        starts = np.indices(out)
        y = np.zeros((batch, group, w.shape[0] // group, *out), x.dtype)
        for tap in np.ndindex(*kernel):
            weights = []
            for axis, size in enumerate(x.shape[2:]):
                regular = starts[axis] * strides[axis] + tap[axis] * dilations[axis] - pads[axis]
                at = (regular + offset[(slice(None), *tap, axis)]).reshape(batch * offset_group, -1, 1)
                weights.append(np.maximum(0, 1 - np.abs(at - np.arange(size))))
            read = _weighted_sums(grouped, weights)
            if masks is not None:
                read = read * masks[(slice(None), *tap)]
            by_group = read.reshape(batch, group, -1, *out)
            matrices = w[(slice(None), slice(None), *tap)].reshape(group, -1, w.shape[1])
            y += np.einsum("goc,ngc...->ngo...", matrices, by_group)
        y = y.reshape(batch, -1, *out)
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class GridSample(OpRun):
    """GridSample by products with one dense matrix an axis.

    The evaluator's own rounds coordinates to float32, and in cubic mode with border padding it clips the coordinate
    where PyTorch and ONNX Runtime clip each of the four elements.
    """

    def _run(self, x, grid, mode=None, padding_mode=None, align_corners=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        points = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        weights = [
            _weights(points[:, :, -1 - axis], size, mode, padding_mode, align_corners)
            for axis, size in enumerate(x.shape[2:])
        ]
        return (_weighted_sums(x, weights).reshape(*x.shape[:2], *grid.shape[1:-1]),)


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


def _weighted_sums(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """For every position the sum of x, weighted along each axis: (batch, channels, positions)."""
    y = np.broadcast_to(x[:, None], (x.shape[0], weights[0].shape[1], *x.shape[1:]))
    for each in reversed(weights):
        y = np.einsum("bpc...s,bps->bpc...", y, each)
    return y.swapaxes(1, 2)


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
