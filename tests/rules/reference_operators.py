"""Operators that the reference evaluator computes wrongly, or not in the precision of its input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .reference_sampling import DeformConv, GridSample, MaxRoiPool


class AffineGrid(OpRun):
    """AffineGrid by PyTorch, in the precision of its input, where the evaluator's own rounds to float32."""

    def _run(self, theta: np.ndarray, size: np.ndarray, align_corners: int | None = None) -> tuple[np.ndarray]:
        grid = F.affine_grid(torch.tensor(theta), [int(each) for each in size], bool(align_corners))
        return (grid.numpy(),)


class AveragePool(OpRun):
    """AveragePool of every form: what a window covers is averaged, padding counts only if asked for."""

    def _run(self, x, count_include_pad=None, **attributes) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        taps, ends = _taps(x, **attributes)
        sums = _windows(x, taps, 0).sum(-1)
        counts = np.ones((), np.int64)
        for axis, (positions, end) in enumerate(zip(taps, ends, strict=True)):
            valid = positions < end if count_include_pad else (positions >= 0) & (positions < x.shape[axis + 2])
            counts = np.multiply.outer(counts, valid.sum(1))
        return ((sums / np.maximum(counts, 1)).astype(x.dtype),)


class ConvTranspose(OpRun):
    """ConvTranspose by PyTorch, where the evaluator's own mixes the groups up and takes each element in turn."""

    def _run(  # type: ignore[no-untyped-def]
        self,
        x,
        w,
        bias=None,
        auto_pad=None,
        dilations=None,
        group=None,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ) -> tuple[np.ndarray]:
        rank = x.ndim - 2
        strides, dilations = np.array(strides or [1] * rank), np.array(dilations or [1] * rank)
        extra = np.array(output_padding or [0] * rank)
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        whole = function(
            torch.tensor(x),
            torch.tensor(w),
            None if bias is None else torch.tensor(bias),
            tuple(strides),
            0,
            0,
            group,
            tuple(dilations),
        ).numpy()
        before, after = np.reshape(pads or [0] * (2 * rank), (2, rank))
        if output_shape is not None or auto_pad.startswith("SAME"):
            natural = np.array(whole.shape[2:]) + extra
            wanted = np.array(output_shape if output_shape is not None else np.array(x.shape[2:]) * strides)
            total = np.maximum(natural - wanted, 0)
            extra += np.maximum(wanted - natural, 0)
            before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after = total - before
        margins = [(0, 0), (0, 0), *((0, each) for each in extra)]
        fill = 0 if bias is None else bias.reshape(-1, *[1] * rank)
        padded = np.pad(whole - fill, margins) + fill
        cut = [slice(b, size - a) for b, a, size in zip(before, after, padded.shape[2:], strict=True)]
        return (padded[:, :, *cut].astype(x.dtype),)


class Erf(OpRun):
    """Erf in the precision of its input, where the evaluator's own rounds to float32."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype),)


class GatherElements(OpRun):
    """GatherElements along axes of any length; the evaluator's own stops at 64."""

    def _run(self, x: np.ndarray, indices: np.ndarray, axis: int | None = None) -> tuple[np.ndarray]:
        cut = tuple(slice(None) if d == axis % x.ndim else slice(size) for d, size in enumerate(indices.shape))
        return (np.take_along_axis(x[cut], indices, axis),)


class GlobalLpPool(OpRun):
    """GlobalLpPool, which the evaluator lacks."""

    def _run(self, x: np.ndarray, p: int | None = None) -> tuple[np.ndarray]:
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    """GlobalMaxPool over all spatial axes, however many; the evaluator's own takes two."""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class Gelu(OpRun):
    """Gelu with its constants in full precision, where its function body has them in float32."""

    def _run(self, x: np.ndarray, approximate: str | None = None) -> tuple[np.ndarray]:
        y = torch.nn.functional.gelu(torch.tensor(x), approximate=approximate or "none")
        return (y.numpy(),)


class GroupNormalization(OpRun):
    """GroupNormalization in the precision of its input, where its function body computes in float32."""

    def _run(self, x, scale, bias, epsilon=None, num_groups=None, stash_type=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        groups = x.reshape(x.shape[0], num_groups, -1)
        normalized = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + epsilon)
        spread = (-1, *[1] * (x.ndim - 2))
        return ((normalized.reshape(x.shape) * scale.reshape(spread) + bias.reshape(spread)).astype(x.dtype),)


class LpNormalization(OpRun):
    """LpNormalization by the norm of magnitudes, where the evaluator's own adds signed values for p = 1."""

    def _run(self, x: np.ndarray, axis: int | None = None, p: int | None = None) -> tuple[np.ndarray]:
        norm = np.linalg.norm(x, ord=p, axis=axis, keepdims=True)
        return (np.divide(x, norm, out=np.zeros_like(x), where=norm != 0),)


class LpPool(OpRun):
    """LpPool of every form, where the evaluator's own takes each window in turn."""

    def _run(self, x, p=None, count_include_pad=None, **attributes) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        windows = _windows(x, _taps(x, **attributes)[0], 0)
        return (((np.abs(windows) ** p).sum(-1) ** (1 / p)).astype(x.dtype),)


class LRN(OpRun):
    """LRN of any rank, each channel with its own neighbours; the evaluator's own takes four axes only."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        sums = np.zeros_like(x)
        for channel in range(x.shape[1]):
            window = slice(max(0, channel - (size - 1) // 2), channel + size // 2 + 1)
            sums[:, channel] = np.square(x[:, window]).sum(1)
        return ((x / (bias + float(alpha) / size * sums) ** beta).astype(x.dtype),)


class MaxUnpool(OpRun):
    """MaxUnpool with positions in the output, where the evaluator's own ignores that `output_shape` may be another.

    So ONNX Runtime, PyTorch, and MaxPool, whose indices count in its whole input.
    """

    def _run(self, x, indices, output_shape=None, kernel_shape=None, pads=None, strides=None) -> tuple[np.ndarray]:  # type: ignore[no-untyped-def]
        rank = x.ndim - 2
        if output_shape is None:
            room = (np.array(x.shape[2:]) - 1) * (strides or [1] * rank) + kernel_shape
            output_shape = [*x.shape[:2], *(room - np.reshape(pads or [0] * 2 * rank, (2, rank)).sum(0))]
        y = np.zeros(np.prod(output_shape), x.dtype)
        y[indices.reshape(-1)] = x.reshape(-1)
        return (y.reshape(output_shape),)


class Mean(OpRun):
    """Mean of any operands, where the evaluator's own adds them into the first and fails if that broadcasts."""

    def _run(self, *operands: np.ndarray) -> tuple[np.ndarray]:
        return (np.asarray(sum(operands) / len(operands)).astype(operands[0].dtype),)


class MeanVarianceNormalization(OpRun):
    """MeanVarianceNormalization in any precision, where its function body has float32 constants."""

    def _run(self, x: np.ndarray, axes: list[int] | None = None) -> tuple[np.ndarray]:
        over = tuple(axes or (0, 2, 3))
        return (((x - x.mean(over, keepdims=True)) / (x.std(over, keepdims=True) + 1e-9)).astype(x.dtype),)


class MaxPool(OpRun):
    """MaxPool with indices into the whole tensor; the evaluator's own count from the start of each channel."""

    def _run(self, x, storage_order=None, **attributes) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        taps, _ = _taps(x, **attributes)
        windows = _windows(x, taps, -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min)
        spatial = x.shape[2:]
        order = "F" if storage_order else "C"
        flat = np.arange(int(np.prod(spatial))).reshape(spatial, order=order)
        sources = np.broadcast_to(_windows(flat[None, None], taps, 0), windows.shape)
        first = windows.argmax(-1)[..., None]
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * len(spatial)) * int(np.prod(spatial))
        return (windows.max(-1), np.take_along_axis(sources, first, -1)[..., 0] + planes)


def _taps(x, kernel_shape=None, strides=None, pads=None, dilations=None, ceil_mode=None, auto_pad=None):  # type: ignore[no-untyped-def]
    """For each spatial axis the positions that each window reads, [windows, kernel], and where the padding ends."""
    rank = x.ndim - 2
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    taps, ends = [], []
    for axis, size in enumerate(x.shape[2:]):
        extent = (kernel_shape[axis] - 1) * dilations[axis] + 1
        before, after = pads[axis], pads[axis + rank]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // strides[axis])
            total = max((count - 1) * strides[axis] + extent - size, 0)
            before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after = total - before
        else:
            room = size + before + after - extent
            count = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
            # A window that would start in the padding behind the input is left out.
            if ceil_mode and (count - 1) * strides[axis] >= size + before:
                count -= 1
        starts = np.arange(count) * strides[axis] - before
        taps.append(starts[:, None] + dilations[axis] * np.arange(kernel_shape[axis]))
        ends.append(size + after)
    return taps, ends


def _windows(x: np.ndarray, taps: list[np.ndarray], fill: float) -> np.ndarray:
    """The elements that each window reads, flat in a last axis; *fill* outside of *x*."""
    spatial = x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), *[(0, 1)] * len(spatial)], constant_values=fill)
    for axis, (positions, size) in enumerate(zip(taps, spatial, strict=True)):
        inside = np.where((positions >= 0) & (positions < size), positions, size)
        padded = np.moveaxis(padded.take(inside, axis + 2), axis + 3, -1)
    return padded.reshape(*padded.shape[: x.ndim], -1)


OPERATORS = [
    AffineGrid,
    AveragePool,
    ConvTranspose,
    DeformConv,
    Erf,
    GatherElements,
    Gelu,
    GlobalLpPool,
    GlobalMaxPool,
    GridSample,
    GroupNormalization,
    LpNormalization,
    LpPool,
    LRN,
    MaxPool,
    MaxRoiPool,
    MaxUnpool,
    Mean,
    MeanVarianceNormalization,
]


class Reference(ReferenceEvaluator):
    """The reference evaluator with these operators, also inside those that it expands as functions."""

    def __init__(self, proto: onnx.ModelProto | Any, **options: Any) -> None:
        super().__init__(proto, **{**options, "new_ops": OPERATORS})
