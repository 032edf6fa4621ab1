"""Rules of the normalizations by statistics of the input: Batch, Layer, RMS, Instance, Group, MeanVariance."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce

import onnx_ir as ir

from ..forms import Alternatives
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from ..write_in_parts import is_filled
from .scaled_rows import ScaledRows

rules = Registry()


@rules.vjp("LayerNormalization", broadcasts=True)
def layer_normalization(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """dx = s (g - mean(g) - x̂ mean(g x̂)), where s = 1/std, x̂ = (x - mean) s and g = scale dy (arXiv:1607.06450).

    The mean and 1/std are kept from the forward operator, which computes them anyway.
    """
    op = n.op
    dy, dmean, dinv_std = (*dys, None, None)[:3]
    x, scale, bias = n.required(0), n.required(1), n.input(2)
    axis = n.axis(-1)
    axes = list(range(axis, x.rank))
    wide = _stash_dtype(n)
    if x.dtype.bitwidth > wide.bitwidth:
        # The operator's own statistics would be less exact than its input.
        wide = x.dtype
        mean, inv_std = statistics(x, axes, n.attr("epsilon", 1e-5))
    else:
        mean, inv_std = _kept_statistics(n, axes, wide)
    centered = x.cast(wide) - mean
    rows = None if dy is None else ScaledRows(dy.cast(wide), scale.cast(wide), centered, inv_std, axis)

    def dx() -> Tensor:
        terms = []
        if rows is not None:
            terms.append(n.fastest(_through_rows(rows, axes, centers=True)))
        if dmean is not None:
            terms.append((dmean.cast(wide) / x.count(axes, dtype=wide)).expand_like(x))
        if dinv_std is not None:
            terms.append(dinv_std.cast(wide) * inv_std**3.0 * centered / -x.count(axes, dtype=wide))
        return reduce(operator.add, terms)

    def dscale() -> Tensor:
        return op.zeros_like(scale) if rows is None else rows.dscale()

    def dbias() -> Tensor:
        assert bias is not None
        return op.zeros_like(bias) if dy is None else dy

    return dx, dscale, dbias


@rules.vjp("RMSNormalization", broadcasts=True)
def rms_normalization(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = s (g - x̂ mean(g x̂)), where s = 1/rms, x̂ = x s and g = scale dy (arXiv:1910.07467)."""
    x, scale = n.required(0), n.required(1)
    axis = n.axis(-1)
    wide = max(_stash_dtype(n), x.dtype, key=lambda dtype: dtype.bitwidth)
    exact = x.cast(wide)
    mean_square = (exact * exact).mean(list(range(axis, x.rank)), keepdims=True)
    inv_rms = n.op.Reciprocal(n.op.Sqrt(mean_square + n.attr("epsilon", 1e-5)))
    rows = ScaledRows(dy.cast(wide), scale.cast(wide), exact, inv_rms, axis)
    return lambda: n.fastest(_through_rows(rows, list(range(axis, x.rank)), centers=False)), rows.dscale


@rules.vjp("BatchNormalization")
def batch_normalization(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """y = scale (x - mean) / sqrt(var + epsilon) + bias, with given statistics, or (training_mode=1) the batch's own.

    In training mode the gradient passes through the statistics of the batch (arXiv:1502.03167, section 3), and the
    running statistics, momentum old + (1 - momentum) new, pass theirs on.
    """
    if n.attr("training_mode", 0):
        return _batch_normalization_in_training(n, *dys)
    x, scale, mean, var = (n.required(index) for index in (0, 1, 3, 4))
    dy = dys[0]
    assert dy is not None
    per_channel = _spread_channels(x)
    axes = [axis for axis in range(x.rank) if axis != 1]
    inv_std = n.op.Reciprocal(n.op.Sqrt(var.cast(x.dtype) + n.attr("epsilon", 1e-5)))
    factor = scale.cast(x.dtype) * inv_std

    def centered() -> Tensor:
        return x - per_channel(mean.cast(x.dtype))

    return (
        lambda: dy * per_channel(factor),
        lambda: (dy * centered()).sum(axes) * inv_std,
        lambda: dy.sum(axes),
        lambda: -(dy.sum(axes) * factor),
        lambda: (dy * centered()).sum(axes) * factor * inv_std * inv_std * -0.5,
    )


def _batch_normalization_in_training(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    dy, dmean, dvar = (*dys, None, None)[:3]
    x, scale = n.required(0), n.required(1)
    per_channel = _spread_channels(x)
    axes = [axis for axis in range(x.rank) if axis != 1]
    momentum = n.attr("momentum", 0.9)
    mean, inv_std = statistics(x, axes, n.attr("epsilon", 1e-5))
    centered = x - mean
    normalized = centered * inv_std

    def dx() -> Tensor | None:
        total = None
        if dy is not None:
            total = through_statistics(dy * per_channel(scale.cast(x.dtype)), normalized, inv_std, axes)
        for d, direction in ((dmean, None), (dvar, centered * 2.0)):
            if d is not None:
                share = per_channel(d.cast(x.dtype)) * (1.0 - momentum) / x.count(axes)
                term = share.expand_like(x) if direction is None else share * direction
                total = term if total is None else total + term
        return total

    return (
        dx,
        lambda: None if dy is None else (dy * normalized).sum(axes),
        lambda: None if dy is None else dy.sum(axes),
        lambda: None if dmean is None else dmean * momentum,
        lambda: None if dvar is None else dvar * momentum,
    )


@rules.vjp("InstanceNormalization")
def instance_normalization(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """As LayerNormalization, with the statistics of each channel of each sample (arXiv:1607.08022)."""
    x, scale = n.required(0), n.required(1)
    per_channel = _spread_channels(x)
    spatial = list(range(2, x.rank))
    mean, inv_std = statistics(x, spatial, n.attr("epsilon", 1e-5))
    normalized = (x - mean) * inv_std
    others = [0, *spatial]
    # A group normalization is often exported as one of instances without a scale.
    scaled = dy if is_filled(scale.value, 1) else dy * per_channel(scale)
    return (
        lambda: through_statistics(scaled, normalized, inv_std, spatial),
        lambda: (dy * normalized).sum(others),
        lambda: dy.sum(others),
    )


@rules.vjp("GroupNormalization")
def group_normalization(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """dx = s (g - mean(g) - x̂ mean(g x̂)), g = scale dy, with the statistics of each group of channels of each sample.

    As for LayerNormalization (arXiv:1803.08494). All comes of the sums of dy and of dy x̂ over each channel of each
    sample: no other tensors of the size of x are read than x and dy.
    """
    op, x, scale, bias = n.op, n.required(0), n.required(1), n.required(2)
    wide = max(_stash_dtype(n), x.dtype, key=lambda dtype: dtype.bitwidth)
    spatial = list(range(2, x.rank))
    exact, given = x.cast(wide), dy.cast(wide)
    groups = _by_groups(n, exact)
    mean, inv_std = statistics(groups, [2], n.attr("epsilon", 1e-5))
    factor = inv_std * op.Reshape(scale.cast(wide), op.ints([n.attr("num_groups"), -1]))
    sums = _by_groups(n, given.sum(spatial))
    along = (_by_groups(n, (given * exact).sum(spatial)) - mean * sums) * inv_std

    def dx() -> Tensor:
        count = groups.count([2])
        slope = (factor * along).sum([2], keepdims=True) * inv_std / count
        offset = mean * slope - (factor * sums).sum([2], keepdims=True) / count
        of_channels = op.Reshape(factor, op.ints([0, -1, *[1] * len(spatial)]))
        return given * of_channels - (groups * slope - offset).reshape_like(x)

    return dx, lambda: along.sum([0]).reshape_like(scale), lambda: sums.sum([0]).reshape_like(bias)


@rules.vjp("MeanVarianceNormalization")
def mean_variance_normalization(n: Primal, dy: Tensor) -> Cotangent:
    """y = (x - mean) / (std + 1e-9); where std is 0, so is the derivative through it."""
    x = n.required(0)
    axes = [axis % x.rank for axis in n.attr("axes", [0, 2, 3])]

    def cotangent() -> Tensor:
        op = n.op
        centered = x - x.mean(axes, keepdims=True)
        std = op.Sqrt((centered * centered).mean(axes, keepdims=True))
        inv = op.Reciprocal(std + 1e-9)
        flat = std.equals(0.0)
        unit = op.Where(flat, op.constant(0, x.dtype), centered / op.Where(flat, op.constant(1, x.dtype), std))
        along = (dy * centered).mean(axes, keepdims=True) * inv
        return (dy - dy.mean(axes, keepdims=True) - along * unit) * inv

    return cotangent


def statistics(x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor]:
    """The mean over *axes* and 1/sqrt(var + epsilon), with the axes kept."""
    mean = x.mean(axes, keepdims=True)
    centered = x - mean
    return mean, x.op.Reciprocal(x.op.Sqrt((centered * centered).mean(axes, keepdims=True) + epsilon))


def through_statistics(g: Tensor, normalized: Tensor, inv_std: Tensor, axes: Sequence[int]) -> Tensor:
    """The cotangent of x from that of x̂ = (x - mean) / std, with both statistics depending on x."""
    along = normalized * (g * normalized).mean(axes, keepdims=True)
    return (g - along - g.mean(axes, keepdims=True)) * inv_std


def _through_rows(rows: ScaledRows, axes: Sequence[int], *, centers: bool) -> Alternatives:
    """The cotangent of x from that of the rows' y, with 1/std, and if it *centers* the mean, depending on x."""

    def by_products(dy: Tensor, scale: Tensor, x: Tensor, inv_std: Tensor) -> Tensor:
        operands = (dy, scale, x, inv_std)
        # The gradient of the scale needs a product of the same rows.
        given = rows if operands == rows.operands else ScaledRows(*operands, rows.axis)
        return (given.less_projection() - given.mean() if centers else given.less_projection()) * inv_std

    def by_means(dy: Tensor, scale: Tensor, x: Tensor, inv_std: Tensor) -> Tensor:
        g, normalized = dy * scale, x * inv_std
        if centers:
            return through_statistics(g, normalized, inv_std, axes)
        return (g - normalized * (g * normalized).mean(axes, keepdims=True)) * inv_std

    return Alternatives(
        "input gradient of a normalization of rows",
        rows.operands,
        {"axis": rows.axis, "centers": centers},
        {"products": by_products, "means": by_means},
        expected="products",
        plain="means",
    )


def _by_groups(n: Primal, x: Tensor) -> Tensor:
    """What has a channel axis, its channels put together: (batch, groups, elements of a group)."""
    # Zeros copy the batch size, whatever it is when the graph runs.
    return n.op.Reshape(x, n.op.ints([0, n.attr("num_groups"), -1]))


def _kept_statistics(n: Primal, axes: Sequence[int], dtype: ir.DataType) -> tuple[Tensor, Tensor]:
    """The mean and 1/std of a LayerNormalization, which gives them out as outputs 1 and 2 when asked to."""
    x = n.required(0)
    shape = ir.Shape([1 if axis in axes else dim for axis, dim in enumerate(x.value.shape or ())])
    return n.extra_output(1, dtype, shape), n.extra_output(2, dtype, shape)


def _stash_dtype(n: Primal) -> ir.DataType:
    """The type of the statistics."""
    return ir.DataType(n.attr("stash_type", ir.DataType.FLOAT))


def _spread_channels(x: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that gives a [C] tensor the shape [C, 1, …] which broadcasts against *x*, [N, C, …]."""
    return lambda channels: channels.unsqueeze(list(range(1, x.rank - 1)))
