"""Convolutions in the blocked layout of ONNX Runtime's CPU kernels (NCHWc).

There a signal (batch, channels, height, width) lies as (batch, channels / block, height, width, block): the block is
as wide as a vector register, 16 floats with AVX-512 and 8 with AVX2 or NEON. The runtime's own pass takes only
convolutions there whose kernels are constants; but its operators, in the domain com.microsoft.nchwc, take any kernel
that is laid out as they want it. That is done here by their own ReorderInput, which is fast.

Source of the layouts: ONNX Runtime, MlasNchwcConv and the operators' schemas. A kernel (M, C, h, w) is to lie as
(M / block, C / block, h, w, block of C, block of M); as (M / block, C, h, w, block of M) where the signal has fewer
channels than a block and stays as it is; and as (M / block, h, w, block of M) where each channel has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .phases import Phase
from .rules.slicing import crop, zero_pad
from .tape import Dim, Tape, Tensor

DOMAIN = "com.microsoft.nchwc"

ALIGNMENT = 4
"""What the runtime's reordering wants a number of channels to be a multiple of."""


@dataclass(frozen=True)
class Steps:
    """How a kernel meets a signal: its strides and dilations, and the zeros around the signal, along both axes.

    Fewer than no zeros after a correlation's signal: so many of its elements meet no window.
    """

    strides: tuple[int, int]
    dilations: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    @property
    def zeros_after(self) -> tuple[int, int]:
        """How many zeros follow the signal, none where elements are left out."""
        down, across = self.after
        return max(down, 0), max(across, 0)


class BlockedLayout:
    """Emits convolutions in blocks of *block* channels, into one graph.

    Signals go in and come out as (batch, channels, height, width), of which the channels are known, and the height and
    the width too, where it is not said that they need not be. A signal that serves several convolutions is laid out
    once. An *activation* is an elementwise operator that the result goes through ("Relu"), if there is one.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self._laid_out: dict[ir.Value, Tensor] = {}

    def convolve(
        self, x: Tensor, w: Tensor, bias: Tensor | None, steps: Steps, activation: str | None = None, group: int = 1
    ) -> Tensor:
        """Conv of *x*, of any height and width, by *w* (M, C, h, w). Each of several groups fills blocks of its own."""
        many, channels, *_ = known_sizes(w)
        if channels >= self.block:
            x = self.blocked(x)
        return self.plain(self.conv(x, self.kernel(w), bias, steps, group, activation), many)

    def convolve_depthwise(
        self, x: Tensor, w: Tensor, bias: Tensor | None, steps: Steps, activation: str | None = None
    ) -> Tensor:
        """Conv of *x*, of any height and width, by *w* (C, 1, h, w), each channel by a kernel of its own."""
        return self.plain(self._depthwise(self.blocked(x), w, bias, steps, activation), known_sizes(w)[0])

    def convolve_transposed(
        self,
        y: Tensor,
        w: Tensor,
        bias: Tensor | None,
        phases: tuple[Sequence[Phase], Sequence[Phase]],
        activation: str | None = None,
    ) -> Tensor:
        """ConvTranspose of *y* by *w* (M, C, h, w) in one group: a Conv for each of the *phases*, which interlock."""
        (_, channels, *_), block = known_sizes(w), self.block
        taps, blocked = self._taps(w), self.blocked(y)
        rows = []
        for down in phases[0]:
            row = []
            for across in phases[1]:
                kernel = self._kernel_of(taps, channels, down, across)
                steps = Steps((1, 1), (1, 1), (down.before, across.before), (down.after, across.after))
                row.append(self.conv(blocked, kernel, bias, steps, activation=activation).reshape([-1, block]))
            rows.append(y.op.Concat(*row, axis=1).reshape([-1, len(row) * phases[1][0].count * block]))
        sizes = [len(each) * each[0].count for each in phases]
        interlocked = y.op.Concat(*rows, axis=1).reshape([-1, self.rounded(channels), *sizes])
        return self.plain(interlocked, channels)

    def _taps(self, w: Tensor) -> Tensor:
        """The kernel *w* (M, C, h, w) as (C / block · M / block, h, w, block of M and of C)."""
        (many, channels, tall, wide), block = known_sizes(w), self.block
        rows, columns = self.rounded(many) // block, self.rounded(channels) // block
        kernel = self.blocked(w.reshape([1, many, channels * tall * wide, 1]))
        kernel = self.blocked(kernel.reshape([rows, channels, tall, wide * block]))
        kernel = kernel.reshape([rows, columns, tall * wide * block * block]).transpose([1, 0, 2])
        return kernel.reshape([columns * rows, tall, wide, block * block])

    def _kernel_of(self, taps: Tensor, channels: int, down: Phase, across: Phase) -> Tensor:
        """Those of *taps* that a phase meets, the last one first, as the kernel of a Conv to so many *channels*."""
        op, rounded = taps.op, self.rounded(channels)
        starts, ends, steps = zip(*(each.taps_reversed for each in (down, across)), strict=True)
        kernel = op.Slice(taps, op.ints(starts), op.ints(ends), op.ints([1, 2]), op.ints(steps))
        tall, wide = known_sizes(kernel)[1:3]
        return kernel.reshape([rounded, known_sizes(kernel)[0] * self.block**2 // rounded, tall, wide])

    def spread_depthwise(
        self,
        y: Tensor,
        w: Tensor,
        bias: Tensor | None,
        strides: tuple[int, int],
        steps: Steps,
        activation: str | None = None,
    ) -> Tensor:
        """ConvTranspose of *y* at *strides* by *w* (C, 1, h, w), each channel by a kernel of its own.

        That is a Conv by the reversed kernel, as *steps* say, of *y* with zeros between its elements.
        """
        spread, (down, across) = self.blocked(y), strides
        channels, height, width = known_sizes(spread, 1)
        if max(strides) > 1:
            spread = spread.reshape([-1, 1, width, self.block])
            spread = zero_pad(spread, {1: (0, down - 1), 3: (0, (across - 1) * self.block)})
            spread = spread.reshape([-1, channels, height * down, width * across])
        return self.plain(self._depthwise(spread, reversed_kernel(w), bias, steps, activation), known_sizes(w)[0])

    def correlate(self, x: Tensor, y: Tensor, steps: Steps, kernel: Sequence[int]) -> Tensor:
        """Σ y[n, m, o] x[n, c, stride·o + dilation·k - before] over n and o, as (m, c, k): the gradient of a kernel.

        A Conv for each sample, whose batch are the channels of *x*, and whose kernel is that of *y*. The zeros are
        laid around a sample when it is in the caches. Heights and widths need not be known.

        Args:
            kernel: the sizes of k.
        """
        many = y.shape[1]
        assert isinstance(many, int)

        def sample(signal: Tensor, cotangent: Tensor) -> Tensor:
            signal, cotangent = surrounded(signal.unsqueeze([1]), steps), self.blocked(cotangent.unsqueeze([0]))
            op, around = signal.op, Steps(steps.dilations, steps.strides, (0, 0), (0, 0))
            met = op.Reshape(cotangent, op.ints([self.rounded(many), 1, 0, 0]))
            return self.conv(signal, met, None, around, sizes=kernel)

        return self.plain(sum_over_samples(x, y, sample), many).transpose([1, 0, 2, 3])

    def correlate_in_groups(self, x: Tensor, y: Tensor, steps: Steps, channels: int) -> Tensor:
        """As `correlate`, each channel of *y* with the *channels* of *x* in its group only, as (m, c, k).

        For each of those channels a depthwise Conv of the signals by *y*; where their number is known, of those of all
        samples.
        """
        batch, many, *_ = y.shape
        assert isinstance(many, int)
        rounded, groups = self.rounded(many), known_sizes(x, 1)[0] // channels
        firsts = np.arange(many) // (many // groups) * channels

        def side_by_side(signal: Tensor, cotangent: Tensor, samples: int) -> Tensor:
            op, signal, cotangent = signal.op, _cropped(signal, steps), self.blocked(cotangent)
            cotangent = cotangent.reshape([samples * rounded, 1, *known_sizes(cotangent, 2)])
            around = Steps(steps.dilations, steps.strides, steps.before, steps.zeros_after)
            sums = []
            for channel in range(channels):
                met = signal
                if groups < many or channels > 1:
                    met = op.Gather(signal, op.ints(firsts + channel), axis=1)
                met = self.blocked(met).reshape([1, samples * rounded, *known_sizes(signal, 2)])
                sums.append(self.conv(met, cotangent, None, around, group=samples * rounded))
            beside = op.Concat(*sums, axis=1) if channels > 1 else sums[0]
            return beside.reshape([channels, samples, rounded, *known_sizes(beside, 2)])

        def sample(signal: Tensor, cotangent: Tensor) -> Tensor:
            return side_by_side(signal.unsqueeze([0]), cotangent.unsqueeze([0]), 1).squeeze([1])

        if isinstance(batch, int) and batch > 0:
            sums = side_by_side(x, y, batch).sum([1])
        else:
            sums = sum_over_samples(x, y, sample)
        return self.plain(sums, many).transpose([1, 0, 2, 3])

    def kernel(self, w: Tensor) -> Tensor:
        """*w* (M, C, h, w) as the kernel of a `conv` of a signal that is in blocks, or has fewer channels than one."""
        many, channels, *size = known_sizes(w)
        if channels >= self.block:
            w = self.blocked(w)
        return self.blocked(w.reshape([1, many, -1, 1])).reshape([self.rounded(many), known_sizes(w)[1], *size])

    def _depthwise(self, x: Tensor, w: Tensor, bias: Tensor | None, steps: Steps, activation: str | None) -> Tensor:
        channels, _, *size = known_sizes(w)
        kernel = self.blocked(w.reshape([1, channels, *size])).reshape([self.rounded(channels), 1, *size])
        return self.conv(x, kernel, bias, steps, self.rounded(channels), activation)

    def conv(
        self,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        steps: Steps,
        group: int = 1,
        activation: str | None = None,
        addend: Tensor | None = None,
        sizes: Sequence[int] | None = None,
    ) -> Tensor:
        """The runtime's Conv of *x* by *kernel*, both laid out; *addend*, in blocks, is added before *activation*.

        Args:
            sizes: the height and width of the result, where they do not follow from those that are known.
        """
        many, _, *size = kernel.shape
        assert isinstance(many, int)
        if bias is not None:
            bias = zero_pad(bias, {0: (0, many - known_sizes(bias)[0])})
        attributes: dict[str, Any] = {} if activation is None else {"activation": activation}
        if all(isinstance(each, int) for each in size):
            attributes["kernel_shape"] = size
        y = x.op.emit(
            "Conv",
            x,
            kernel,
            bias,
            addend,
            domain=DOMAIN,
            strides=steps.strides,
            dilations=steps.dilations,
            pads=[*steps.before, *steps.after],
            group=group,
            **attributes,
        )
        return described(y, x.dtype, [x.shape[0], many, *(sizes or _counts(x, size, steps))])

    def blocked(self, x: Tensor) -> Tensor:
        """*x* in blocks, the last of which is filled with zeros."""
        if x.value not in self._laid_out:
            batch, channels, *size = x.shape
            assert isinstance(channels, int)
            blocked = x.op.emit("ReorderInput", x, domain=DOMAIN)
            self._laid_out[x.value] = described(blocked, x.dtype, [batch, self.rounded(channels), *size])
        return self._laid_out[x.value]

    def plain(self, y: Tensor, channels: int) -> Tensor:
        """The first *channels* of *y*, which is in blocks, one after the other."""
        batch, _, *size = y.shape
        plain = y.op.emit("ReorderOutput", y, domain=DOMAIN, channels=channels)
        return described(plain, y.dtype, [batch, channels, *size])

    def rounded(self, channels: int) -> int:
        """*channels*, or as many as fill the last block."""
        return -(-channels // self.block) * self.block


def reversed_kernel(w: Tensor) -> Tensor:
    """The kernel *w* from its last tap to its first."""
    op, axes = w.op, range(2, w.rank)
    starts, ends = op.ints([-1 for _ in axes]), op.ints([np.iinfo(np.int64).min for _ in axes])
    return op.Slice(w, starts, ends, op.ints(axes), starts)


def _counts(x: Tensor, kernel: Sequence[Dim], steps: Steps) -> list[Dim]:
    """How many windows there are along the height and the width, None where that is not known."""
    counts: list[Dim] = []
    for axis, (extent, taps) in enumerate(zip(x.shape[2:], kernel, strict=True)):
        count = None
        if isinstance(extent, int) and isinstance(taps, int):
            uncovered = extent + steps.before[axis] + steps.after[axis] - (taps - 1) * steps.dilations[axis] - 1
            count = uncovered // steps.strides[axis] + 1
        counts.append(count)
    return counts


def sum_over_samples(x: Tensor, y: Tensor, sample: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The sum of what *sample* emits for each sample of *x* and *y*."""
    if isinstance(x.shape[0], int):
        return _scan_samples(x.op, x, y, sample)
    # ONNX Runtime 1.31 refuses a Scan over none.
    some, none = x.op.body(), x.op.body()
    total = _scan_samples(some, some.tensor(x.value), some.tensor(y.value), sample)
    some.returns(total)
    none.returns(none.zeros_like(total))
    sums = x.op.emit("If", x.op.Size(x) > 0, then_branch=some.graph, else_branch=none.graph)
    return described(sums, x.dtype, total.shape)


def _scan_samples(op: Tape, x: Tensor, y: Tensor, sample: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    inner = op.body()
    signal = inner.argument("signal", x.dtype, x.shape[1:])
    cotangent = inner.argument("cotangent", y.dtype, y.shape[1:])
    addend = sample(signal, cotangent)
    total = inner.argument("sum", x.dtype, addend.shape)
    inner.graph.inputs[:] = [total.value, signal.value, cotangent.value]
    inner.returns(total + addend)
    zeros = op.zeros_like(addend)
    return described(op.emit("Scan", zeros, x, y, body=inner.graph, num_scan_inputs=2), x.dtype, addend.shape)


def _cropped(x: Tensor, steps: Steps) -> Tensor:
    """*x* without what no window meets, where that is said as a negative number of zeros."""
    return crop(x, {axis: (0, after) for axis, after in enumerate(steps.after, 2) if after < 0})


def surrounded(x: Tensor, steps: Steps) -> Tensor:
    """*x* with its zeros around it."""
    down, across = zip(steps.before, steps.zeros_after, strict=True)
    return zero_pad(_cropped(x, steps), {2: down, 3: across})


def known_sizes(x: Tensor, first: int = 0) -> list[int]:
    """The sizes of *x* from the axis *first* on, which are known."""
    sizes = [dim for dim in x.shape[first:] if isinstance(dim, int)]
    assert len(sizes) == x.rank - first
    return sizes


def described(x: Tensor, dtype: ir.DataType, shape: Sequence[Dim]) -> Tensor:
    """*x*, of an operator that shape inference does not know, with its type and shape."""
    x.value.type, x.value.shape = ir.TensorType(dtype), ir.Shape(shape)
    return x
