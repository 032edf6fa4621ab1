"""Convolutions of volumes in the blocked layout, whose kernels know images only.

The slices of a volume (batch, channels, depth, height, width) along its depth are images of a batch that is larger by
so much; a kernel is a row of taps along the depth, each of which is a kernel of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .blocked_layout import BlockedLayout, Steps, described, known_sizes, sum_over_samples, surrounded
from .rules.slicing import zero_pad
from .tape import Tensor


@dataclass(frozen=True)
class Depth:
    """How a kernel meets the slices of a volume: tap k of window o the slice stride·o + dilation·k - before.

    Attributes:
        taps: how many the kernel has along the depth.
        slices: how many slices the signal has.
        windows: how many the kernel has places at.
    """

    stride: int
    dilation: int
    before: int
    taps: int
    slices: int
    windows: int

    @property
    def is_met_by_every_tap(self) -> bool:
        """Whether each tap meets a slice in some window."""
        ends = ((self.first(tap), self.first(tap) + (self.windows - 1) * self.stride) for tap in range(self.taps))
        return all(first < self.slices and last >= 0 for first, last in ends)

    def first(self, tap: int) -> int:
        """The slice that *tap* meets in the first window; a negative one is zero."""
        return tap * self.dilation - self.before

    def windows_by_slice(self) -> np.ndarray:
        """For each slice and tap the window in which they meet (slices, taps); *windows* where there is none."""
        slices, taps = np.ogrid[: self.slices, : self.taps]
        window, rest = np.divmod(slices + self.before - taps * self.dilation, self.stride)
        return np.where((rest == 0) & (window >= 0) & (window < self.windows), window, self.windows)


class BlockedVolumes:
    """Emits convolutions of volumes in the blocks of *layout*; all sizes but that of the batch are known."""

    def __init__(self, layout: BlockedLayout) -> None:
        self._layout = layout

    def convolve(
        self, x: Tensor, w: Tensor, bias: Tensor | None, depth: Depth, steps: Steps, activation: str | None = None
    ) -> Tensor:
        """Conv of *x* by *w* (M, C, d, h, w) in one group: for each tap along the depth one Conv, all added up.

        *steps* are those along height and width. Every tap meets a slice.
        """
        op, layout = x.op, self._layout
        slices, y = self._slices(x), None
        for tap in range(depth.taps):
            last = tap == depth.taps - 1
            y = layout.conv(
                self._met(slices, x, depth, tap),
                layout.kernel(op.Gather(w, op.constant(tap, ir.DataType.INT64), axis=2)),
                bias if y is None else None,
                steps,
                activation=activation if last else None,
                addend=y,
            )
        assert y is not None
        return self._volume(y, known_sizes(w)[0], depth.windows)

    def correlate(self, x: Tensor, y: Tensor, depth: Depth, steps: Steps) -> Tensor:
        """Σ y[n, m, o] x[n, c, stride·o + dilation·k - before] over n and o, as (m, c, k): the gradient of a kernel.

        For each slice of a sample of *x* one Conv, whose batch are its channels; its kernel are those slices of *y*
        which the taps along the depth bring together with it, side by side.
        """
        layout, block, integer = self._layout, self._layout.block, ir.DataType.INT64
        channels, slices, *size = known_sizes(x, 1)
        many, _, height, width = known_sizes(y, 1)
        blocks = layout.rounded(many) // block
        around = Steps(steps.dilations, steps.strides, (0, 0), (0, 0))

        def sample(signal: Tensor, cotangent: Tensor) -> Tensor:
            op = signal.op
            cotangent = layout.blocked(cotangent.reshape([1, many, depth.windows * height, width]))
            cotangent = zero_pad(cotangent.reshape([blocks, depth.windows, height * width * block]), {1: (0, 1)})
            inner = op.body()
            total = inner.argument("sum", x.dtype, None)
            index = inner.argument("slice", integer, [])
            windows = inner.argument("windows", integer, [depth.taps])
            image = inner.Gather(inner.tensor(signal.value), index, axis=1).reshape([channels, 1, *size])
            met = inner.Gather(inner.tensor(cotangent.value), windows, axis=1)
            met = met.reshape([blocks * depth.taps * block, 1, height, width])
            products = layout.conv(surrounded(image, steps), met, None, around)
            described(total, x.dtype, products.shape)
            inner.returns(total + products)
            indices = op.constant(np.arange(slices), integer), op.constant(depth.windows_by_slice(), integer)
            sums = op.emit("Scan", op.zeros_like(products), *indices, body=inner.graph, num_scan_inputs=2)
            return described(sums, x.dtype, products.shape)

        sums = sum_over_samples(x, y, sample)
        kernel = known_sizes(sums, 2)
        if blocks > 1:
            sums = sums.reshape([channels, blocks, depth.taps, -1]).transpose([0, 2, 1, 3])
        sums = sums.reshape([channels * depth.taps, blocks * block, *kernel])
        return layout.plain(sums, many).reshape([channels, depth.taps, many, *kernel]).transpose([2, 0, 1, 3, 4])

    def _slices(self, x: Tensor) -> Tensor:
        """The volumes *x* in blocks, slice by slice: (batch, depth, channels · height · width)."""
        channels, depth, height, width = known_sizes(x, 1)
        blocked, block = self._layout.blocked(x.reshape([-1, channels, depth * height, width])), self._layout.block
        if channels > block:
            blocked = blocked.reshape([-1, self._layout.rounded(channels) // block, depth, height * width * block])
            blocked = blocked.transpose([0, 2, 1, 3])
        return blocked.reshape([-1, depth, self._layout.rounded(channels) * height * width])

    def _met(self, slices: Tensor, x: Tensor, depth: Depth, tap: int) -> Tensor:
        """Those of the *slices* of *x* that *tap* meets, window by window, as images."""
        op, (channels, _, *size) = slices.op, known_sizes(x, 1)
        first = depth.first(tap)
        behind = first + (depth.windows - 1) * depth.stride + 1
        if (first, behind) != (0, depth.slices):
            slices = op.Pad(slices, op.ints([0, -first, 0, 0, behind - depth.slices, 0]))
        if depth.stride > 1:
            slices = op.Slice(slices, op.ints([0]), op.ints([behind - first]), op.ints([1]), op.ints([depth.stride]))
        return slices.reshape([-1, self._layout.rounded(channels), *size])

    def _volume(self, images: Tensor, channels: int, depth: int) -> Tensor:
        """The first *channels* of *images* in blocks, so many as make up the *depth* of one volume after the other."""
        rounded, height, width = known_sizes(images, 1)
        block = self._layout.block
        if rounded > block:
            images = images.reshape([-1, depth, rounded // block, height * width * block]).transpose([0, 2, 1, 3])
        volumes = self._layout.plain(images.reshape([-1, rounded, depth * height, width]), channels)
        return volumes.reshape([-1, channels, depth, height, width])
