"""The choice of form for the gradients of convolutions, by their sizes.

A convolution's gradients can be written as another convolution or as products of matrices, at costs that differ
by up to ten times. The rules here were measured in ONNX Runtime on CPUs, on the layers of ResNet, VGG, MobileNet,
small classifiers and 1-D networks. No form depends on the size of the batch, which is mostly unknown.

On 2 cores they name a form within a tenth of the fastest for 80 % of 75 weight gradients and 85 % of 60 input
gradients. Models of time fitted to the same layers (arithmetic, bytes moved, number of products and thinness of each)
did no better: 83 % and 82 % of the layers left out of the fit. `runtime.tuning` measures instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

_MANY_TAPS = 27
"""A kernel of 3 x 3 x 3. More products than that cost more than they save, and swell the graph."""

_FEW_CHANNELS = 8
"""A product with fewer rows than this wastes most of a matrix kernel's register tile."""

_FEW_POSITIONS = 256
"""Below 16 x 16 positions the fixed cost of a small product or copy outweighs its arithmetic."""

_SHORT_ROWS = 1024
"""Up to 32 x 32 positions, products of whole rows are faster than the few elements that are needed, one by one."""

_MANY_CHANNELS = 128
"""From here on a product takes so long for each column of its other factor that copying that costs less."""


@dataclass(frozen=True)
class ConvolutionSizes:
    """The sizes of a convolution (of a long signal to a short one) or of its transpose, without the batch.

    Attributes:
        groups: how many groups the channels are in.
        long_channels: the channels of the long signal, in one group.
        short_channels: those of the short signal, in one group.
        kernel: the sizes of the kernel.
        strides: the distances between windows, along each axis.
        long_positions: the number of positions of the long signal; None if only known at run time.
        short_positions: that of the short signal.
    """

    groups: int
    long_channels: int
    short_channels: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    long_positions: int | None
    short_positions: int | None


class WeightForm(Enum):
    """How to compute the gradient of the weight. A tap is one position of the kernel."""

    CONVOLUTION = "one Conv of the long signal by the short one, over the batch"
    TAPS = "for each tap and each member of the batch one product, summed over the batch"
    TAPS_OVER_BATCH = "for each tap one product that contracts the batch too; both signals are transposed"
    ROWS = (
        "for each channel one product of rows by rows that contracts the batch too, of which some elements are picked"
    )
    COLUMNS = "one product of the long signal and the columns (im2col) of the short one, at stride 1 in one group"
    SHIFTS = "as TAPS, but along the first axis, at stride 1 there, the shifts of the short signal side by side"
    GATHERED_TAPS = "the taps side by side, and for each member of the batch one product, summed over the batch"


def weight_form(sizes: ConvolutionSizes) -> WeightForm:
    """The form that is expected to be the fastest for the gradient of the weight.

    A Conv serves kernels of many taps, whose number is then the width of its inner product. Where each tap has a
    product of its own, few channels make it thin: then the taps are gathered, which copies the signal once for
    each. To contract the batch in the product costs the transposition of both signals, and saves a gradient for
    each member of the batch: it pays where the weight is larger than the signals. The products of a depthwise
    convolution have one row and one column: those of whole rows of short signals are better filled. The columns of
    the short signal serve both gradients, and are then computed once. Shifts of a volume make products of fewer taps
    and more rows; they copy the short signal, which is smaller than the taps of the long one.
    """
    if _suits_columns(sizes):
        return WeightForm.COLUMNS
    taps = prod(sizes.kernel)
    short = sizes.short_positions is not None and sizes.short_positions <= _SHORT_ROWS
    if is_depthwise(sizes) and short and 1 < taps <= _MANY_TAPS:
        return WeightForm.ROWS
    if sizes.long_channels < _FEW_CHANNELS and taps > 1:
        if sizes.groups == 1:
            return WeightForm.GATHERED_TAPS if taps <= 16 else WeightForm.CONVOLUTION
        few = sizes.short_positions is not None and sizes.short_positions < _FEW_POSITIONS
        return WeightForm.CONVOLUTION if few or taps > _MANY_TAPS else WeightForm.TAPS
    if taps > _MANY_TAPS:
        return WeightForm.CONVOLUTION
    if _has_larger_weight(sizes):
        return WeightForm.TAPS_OVER_BATCH
    return WeightForm.SHIFTS if len(sizes.kernel) == 3 else WeightForm.TAPS


def is_depthwise(sizes: ConvolutionSizes) -> bool:
    """Whether each channel of a 2-D convolution has one kernel and meets no other."""
    return sizes.groups > 1 and sizes.long_channels == sizes.short_channels == 1 and len(sizes.kernel) == 2


def _has_larger_weight(sizes: ConvolutionSizes) -> bool:
    """Whether the weight is larger than a sample of both signals."""
    if sizes.long_positions is None or sizes.short_positions is None:
        return False
    weight = sizes.short_channels * sizes.long_channels * prod(sizes.kernel)
    return weight > sizes.long_channels * sizes.long_positions + sizes.short_channels * sizes.short_positions


def _suits_columns(sizes: ConvolutionSizes) -> bool:
    if sizes.groups > 1 or max(sizes.strides) > 1 or not 1 < prod(sizes.kernel) <= _MANY_TAPS:
        return False
    return min(sizes.long_channels, sizes.short_channels) >= _MANY_CHANNELS and _has_larger_weight(sizes)


class InputForm(Enum):
    """How to compute the gradient of the long signal."""

    TRANSPOSED = "one ConvTranspose of the short signal"
    REVERSED_KERNEL = "one Conv of the short signal by the reversed kernel, at stride 1"
    COLUMNS = "one product of the kernel and the columns (im2col) of the short signal, at stride 1 in one group"


def input_form(sizes: ConvolutionSizes) -> InputForm:
    """The form that is expected to be the fastest for the gradient of the long signal.

    ConvTranspose scatters a matrix of long_channels columns, on one thread; Conv gathers one of short_channels, on
    all threads, and nothing where the kernel has one tap. To reverse a large kernel costs more than that where
    positions are few; one that is depthwise is small. Where channels are many and positions few, neither fills its
    inner products, but one product over the batch does.
    """
    if any(stride > 1 for stride in sizes.strides):
        return InputForm.TRANSPOSED
    if prod(sizes.kernel) == 1:
        return InputForm.REVERSED_KERNEL
    if _suits_columns(sizes):
        return InputForm.COLUMNS
    if sizes.long_positions is not None and sizes.long_positions < 100 and not is_depthwise(sizes):
        return InputForm.TRANSPOSED
    worthwhile = 2 * sizes.long_channels >= sizes.short_channels and sizes.groups * sizes.long_channels >= 32
    return InputForm.REVERSED_KERNEL if worthwhile else InputForm.TRANSPOSED
