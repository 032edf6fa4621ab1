"""The adjoint of averaging windows, in the form that suits how they lie.

A window that is alone, or side by side with others, gives each of its elements the same, which is then repeated.
Windows that overlap are added up, by an average over mirrored windows or by a ConvTranspose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir

from ..forms import Alternatives
from ..registry import Primal
from ..tape import Tensor
from .pooling_windows import PoolingWindows
from .sizes import Size, size_of
from .slicing import crop, zero_pad
from .sliding_windows import Windows, convolve_transposed

_REPEATED, _AVERAGED, _TRANSPOSED = "repeated", "averaged", "transposed"
"""The forms, from the fastest to the one that is always there."""

_RESIZABLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""The types that ONNX Runtime enlarges on the CPU, float16 by way of float32."""


def spread_average(n: Primal, dy: Tensor, x: Tensor, windows: Sequence[PoolingWindows]) -> Tensor:
    """The adjoint of averaging windows of *x*, whatever they cover, over the size of the kernel."""
    area = prod(each.kernel for each in windows)
    covered = [_covered(each) for each in windows]
    if all(each.count == 1 and each.kernel == each.size for each in covered):
        return (dy / float(area)).expand_like(x)
    return n.fastest(_forms(dy, x, covered, area))


def _covered(w: PoolingWindows) -> PoolingWindows:
    """These windows; one that is alone without what it reaches beyond the input."""
    if w.count != 1 or w.dilation > 1 or not isinstance(w.size, int) or not isinstance(w.before, int):
        return w
    length = min(w.kernel - w.before, w.size)
    return replace(w, kernel=length, stride=length, before=0, after=0, may_exceed=False)


def _forms(dy: Tensor, x: Tensor, windows: Sequence[PoolingWindows], area: int) -> Alternatives:
    """How to add *dy*, divided by *area*, to all that the windows of *x* cover."""
    forms: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if dy.dtype in _RESIZABLE and all(_are_side_by_side(each) for each in windows):
        forms[_REPEATED] = partial(_repeat, windows=windows, area=area)
    mirrored = [_mirrored_pads(each) for each in windows]
    pads = [pair for pair in mirrored if pair is not None]
    if len(pads) == len(windows):
        both = [before for before, _ in pads] + [after for _, after in pads]
        forms[_AVERAGED] = partial(_average, kernel=[each.kernel for each in windows], pads=both, area=area)
    forms[_TRANSPOSED] = partial(_transpose, windows=windows, area=area)
    expected = next(iter(forms))
    attributes: dict[str, object] = {}
    described = [list(vars(each).values()) for each in windows]
    if all(isinstance(value, int) for each in described for value in each):
        attributes = {"windows": described, "area": area}
    else:  # sizes that are computed in the graph cannot be emitted elsewhere, for a measurement
        forms = {expected: forms[expected]}
    operands = (dy, x)
    plain = _TRANSPOSED if _TRANSPOSED in forms else expected
    return Alternatives("input gradient of an average pool", operands, attributes, forms, expected, plain)


def _are_side_by_side(w: PoolingWindows) -> bool:
    """Whether windows cover all elements between the first's and the last's, each once."""
    known = all(isinstance(each, int) for each in (w.size, w.count, w.before))
    return w.dilation == 1 and w.stride == w.kernel and (known or (w.before == 0 and not w.may_exceed))


def _repeat(dy: Tensor, x: Tensor, windows: Sequence[PoolingWindows], area: int) -> Tensor:
    """Each cotangent once for each element of its window, between zeros for elements without a window."""
    op = dy.op
    scales = op.constant([1, 1, *(each.kernel for each in windows)], ir.DataType.FLOAT)
    attributes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    repeated = op.Resize(dy / float(area), None, scales, mode="nearest", **attributes)
    bounds: dict[int, tuple[Size, Size]] = {}
    margins: dict[int, tuple[Size, Size]] = {}
    for axis, each in enumerate(windows, 2):
        size, end = size_of(x, axis), each.count * each.kernel - each.before
        if isinstance(size, int) and isinstance(end, int):
            bounds[axis] = (each.before, each.before + min(size, end))
            margins[axis] = (0, max(size - end, 0))
            if bounds[axis] == (0, end):
                del bounds[axis]
        else:
            margins[axis] = (0, size - end)
    return zero_pad(crop(repeated, bounds), margins)


def _average(dy: Tensor, x: Tensor, kernel: Sequence[int], pads: Sequence[int], area: int) -> Tensor:
    """An average in turn, over mirrored windows."""
    if prod(kernel) != area:
        dy = dy * (prod(kernel) / area)
    return dy.op.AveragePool(dy, kernel_shape=kernel, pads=pads, count_include_pad=1)


def _transpose(dy: Tensor, x: Tensor, windows: Sequence[PoolingWindows], area: int) -> Tensor:
    """A ConvTranspose of each channel alone; of all of them as planes of their own if it is not known how many."""
    op, channels = dy.op, dy.shape[1]
    steps, ones = [_as_convolution(each) for each in windows], np.ones([each.kernel for each in windows])
    if isinstance(channels, int):
        kernels = op.constant(np.tile(ones / area, (channels, 1, *[1] * len(windows))), dy.dtype)
        return convolve_transposed(dy, kernels, x, steps, channels)
    planes = op.Reshape(dy, op.ints([-1, 1, *[0] * len(windows)]))
    return convolve_transposed(planes, op.constant(ones[None, None] / area, dy.dtype), x, steps, 1).reshape_like(x)


def _mirrored_pads(w: PoolingWindows) -> tuple[int, int] | None:
    """The pads with which the adjoint is a pool itself; None if there are none.

    Dilations are left out: AveragePool has had them only since opset 19.
    """
    if w.stride > 1 or w.dilation > 1 or not isinstance(w.before, int) or not isinstance(w.after, int):
        return None
    before, after = w.kernel - 1 - w.before, w.kernel - 1 - w.after
    return (before, after) if before >= 0 and after >= 0 else None


def _as_convolution(w: PoolingWindows) -> Windows:
    """These windows as those of a convolution, with the padding that they reach into."""
    if isinstance(w.size, int) and isinstance(w.count, int) and isinstance(w.before, int):
        beyond = (w.count - 1) * w.stride + w.extent - w.size - w.before
        return Windows(w.stride, w.dilation, w.before, max(beyond, 0), max(-beyond, 0))
    return Windows(w.stride, w.dilation, w.before, 0, None)
