"""Rules of the Fourier transforms: DFT, STFT; and MelWeightMatrix, which weights their spectra.

A transform is linear over the real and imaginary parts, which are the last axis. The adjoint of the sum with
e^(-2πi kn/N) is the sum with e^(2πi kn/N), that is N times the inverse transform; that of zero-padding is cropping,
and that of taking a real signal for a complex one is taking the real part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .scattering import add_slices, merge_axes
from .sizes import Size, count_up_to, join_sizes, larger, size_of
from .slicing import crop, zero_pad

rules = Registry()

rules.zero(
    "MelWeightMatrix",
    reason="it rounds the edges of the bands down to bins of the spectrum, so that it is piecewise constant in them",
)


@rules.vjp("DFT", inputs=(0,))
def dft(n: Primal, dy: Tensor) -> Cotangent:
    """dx = N IDFT(dy), the inverse's DFT(dy) / N: cropped or padded to x, and its real part if x is real.

    A one-sided inverse reads each inner bin for its conjugate, too, so that these count twice; and not the imaginary
    parts of the first bin and of the middle one.
    """
    op, axis = n.op, _axis(n)
    x, dy = (n.required(0), dy) if axis is not None else (_around(n, n.required(0)), _around(n, dy))
    axis = 1 if axis is None else axis
    inverse, onesided, given = n.attr("inverse", 0), n.attr("onesided", 0), n.input(1)
    size = size_of(x, axis)
    length = _number(given) if given is not None else (size - 1) * 2 if inverse and onesided else size

    def cotangent() -> Tensor:
        if inverse and onesided:
            bins = _transform(dy, length, axis, onesided=1)
            counts = _readings(bins, axis, length).unsqueeze(range(1, x.rank - axis))
            dx = bins * (counts / _scalar(op, length, x.dtype))
        elif inverse:
            dx = _transform(dy, length, axis) / _scalar(op, length, x.dtype)
        else:
            dx = _transform(dy, length, axis, inverse=1) * _scalar(op, length, x.dtype)
        dx = dx if given is None else _fit(dx, axis, size)
        return _real_part_if_real(dx, n.required(0)).reshape_like(n.required(0))

    return cotangent


@rules.vjp("STFT", inputs=(0, 2))
def stft(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = Σ w IDFT(dy) N over the frames that cover x, dw = Σ x IDFT(dy) N over all frames; N is their length."""
    op, x, window, y = n.op, n.required(0), n.input(2), n.outputs[0]
    given, step = n.input(3), _number(n.required(1))
    length = (
        _number(given) if given is not None else size_of(x if window is None else window, 1 if window is None else 0)
    )

    @cache
    def frames() -> Tensor:
        whole = _transform(dy, length, 2, inverse=1) * _scalar(op, length, x.dtype)
        return _real_part_if_real(whole, x)

    @cache
    def positions() -> Tensor:
        starts = count_up_to(op, size_of(y, 1)) * join_sizes(op, [step])
        return starts.unsqueeze([1]) + count_up_to(op, length)

    def cotangent_signal() -> Tensor:
        weighted = frames() if window is None else frames() * window.unsqueeze([1])
        return add_slices(op.zeros_like(x), positions().reshape([-1]), merge_axes(weighted, 1, 3), 1)

    def cotangent_window() -> Tensor:
        return (op.Gather(x, positions(), axis=1) * frames()).sum([0, 1, 3])

    return cotangent_signal, None, cotangent_window


def _axis(n: Primal) -> int | None:
    """The axis that is transformed, if it is known."""
    axis = n.input(2)
    if axis is None:
        return n.required(0).rank - 2
    return None if axis.constant is None else int(axis.constant.item()) % n.required(0).rank


def _around(n: Primal, x: Tensor) -> Tensor:
    """*x* as (axes before, the axis that is transformed, axes behind, parts): its axis is only known at run time."""
    op, sizes = n.op, x.sizes()
    axis = n.required(2).reshape([1]).cast(ir.DataType.INT64)
    before = op.Slice(sizes, op.ints([0]), axis).prod(keepdims=True)
    behind = op.Slice(sizes, axis + 1, op.ints([-1])).prod(keepdims=True)
    return x.reshape(join_sizes(op, [before, op.Gather(sizes, axis, axis=0), behind, size_of(x, -1)]))


def _number(scalar: Tensor) -> Size:
    """The value of an integer scalar."""
    constant = scalar.constant
    return scalar.reshape([1]).cast(ir.DataType.INT64) if constant is None else int(constant.item())


def _scalar(op: Tape, size: Size, dtype: ir.DataType) -> Tensor:
    return op.constant(size, dtype) if isinstance(size, int) else size.squeeze([0]).cast(dtype)


def _transform(x: Tensor, length: Size, axis: int, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    """The DFT of *x* along *axis*, cropped or padded to *length*."""
    op, dtype = x.op, ir.DataType.INT64
    scalars = _scalar(op, length, dtype), op.constant(axis, dtype)
    return op.DFT(x, *scalars, inverse=inverse, onesided=onesided)


def _readings(bins: Tensor, axis: int, length: Size) -> Tensor:
    """How often a one-sided inverse of *length* reads each of the *bins* along *axis*: 1-D."""
    op = bins.op
    index = count_up_to(op, size_of(bins, axis))
    inner = op.And(index > 0, (index * 2) < join_sizes(op, [length]))
    return 1 + inner.cast(bins.dtype)


def _fit(x: Tensor, axis: int, size: Size) -> Tensor:
    """Crop *x* along *axis* to *size*, or pad it with zeros."""
    own = size_of(x, axis)
    if isinstance(own, int) and isinstance(size, int):
        return crop(x, {axis: (0, size)}) if own > size else zero_pad(x, {axis: (0, size - own)})
    return zero_pad(crop(x, {axis: (0, size)}), {axis: (0, larger(size - own, 0))})


def _real_part_if_real(complex_: Tensor, like: Tensor) -> Tensor:
    """As many of the two parts as *like* has."""
    parts = size_of(like, -1)
    return complex_ if parts == 2 else crop(complex_, {complex_.rank - 1: (0, parts)})
