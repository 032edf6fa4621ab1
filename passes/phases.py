"""The phases of a transposed convolution: positions a stride apart, which meet the same taps of the kernel.

With x[i] = Σ y[o] w[k] over stride·o + k - before = i, the positions i = stride·t + phase meet the taps k that leave
the remainder of phase + before by the stride, and those only: along t they are a convolution by those taps, reversed.

Source: W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016, arXiv:1609.07009.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Phase:
    """One phase along one axis, as a Conv at stride 1.

    Attributes:
        count: how many positions it has.
        taps_reversed: the start, end and step of the Slice that takes its taps from the kernel, the last one first.
        before, after: how many zeros surround the signal.
    """

    count: int
    taps_reversed: tuple[int, int, int]
    before: int
    after: int


def phases_of(
    long: Sequence[int], short: Sequence[int], kernel: Sequence[int], strides: Sequence[int], before: Sequence[int]
) -> tuple[list[Phase], list[Phase]] | None:
    """The phases along both axes of a ConvTranspose from a signal of the sizes *short* to one of the sizes *long*.

    None where they are not alike: one meets no tap, has fewer positions than another, or needs less than the signal.
    """
    down, across = map(_phases, long, short, kernel, strides, before)
    return None if down is None or across is None else (down, across)


def _phases(long: int, short: int, kernel: int, stride: int, before: int) -> list[Phase] | None:
    if long % stride or kernel < stride:
        return None
    count = long // stride
    phases = []
    for phase in range(stride):
        skipped, first = divmod(phase + before, stride)
        taps = range(first, kernel, stride)
        end = taps[0] - stride
        reversed_taps = (taps[-1], end if end >= 0 else np.iinfo(np.int64).min, -stride)
        phases.append(Phase(count, reversed_taps, len(taps) - 1 - skipped, count - short + skipped))
    return phases if all(min(phase.before, phase.after) >= 0 for phase in phases) else None
