"""Rules of the pooling operators."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from ..forms import Alternatives
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .masking import FEW
from .pooling_averages import spread_average
from .pooling_windows import kernel_over_count, overlap, pooling_windows
from .pooling_winners import Cells, find_cells, to_winners, winners
from .scattering import add_slices, put_at_flat_positions

rules = Registry()

_INDICES, _WINNERS = "indices", "winners"
"""The forms of the gradient of MaxPool, by what they keep of it."""


@rules.vjp("MaxPool")
def max_pool(n: Primal, dy: Tensor | None, dindices: None = None) -> Cotangent:
    """The cotangent of each window goes to the first of its largest elements."""
    if dy is None:
        return None
    x, y = n.required(0), n.outputs[0]

    def cotangent() -> Tensor:
        cells = find_cells(pooling_windows(n))
        if n.rules.choose(_max_pool_forms(n, dy, cells)) == _WINNERS and cells is not None:
            return to_winners(dy, winners(x, y, cells), x, cells)
        return _to_indices(dy, _row_major_indices(n), x, overlap=overlap(n))

    return cotangent


@rules.vjp("AveragePool")
def average_pool(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent of each window, divided by the number of averaged elements, is added to all that it covers."""
    x = n.required(0)

    def cotangent() -> Tensor:
        windows, weighted = pooling_windows(n), dy
        for axis, each in enumerate(windows, 2):
            ratio = kernel_over_count(x, each, padding_counts=bool(n.attr("count_include_pad", 0)))
            if ratio is not None:
                weighted = weighted * ratio.unsqueeze(list(range(1, x.rank - axis)))
        return spread_average(n, weighted, x, windows)

    return cotangent


@rules.vjp("LpPool")
def lp_pool(n: Primal, dy: Tensor) -> Cotangent:
    """dx = sign(x) |x|^(p-1) Σ dy y^(1-p) over the windows that cover x; 0 where y is 0."""
    x, y, p = n.required(0), n.outputs[0], n.attr("p", 2)

    def cotangent() -> Tensor:
        windows = pooling_windows(n)
        elements = prod(each.kernel for each in windows)
        return _norm_slope(x, p) * spread_average(n, _over_norm(dy, y, p) * float(elements), x, windows)

    return cotangent


@rules.vjp("MaxUnpool", inputs=(0,))
def max_unpool(n: Primal, dy: Tensor) -> Cotangent:
    """Each element reads the cotangent at the position that it was put at.

    Positions count in the output, as those of MaxPool do in its input. Elements put at one position each get its
    cotangent, as in PyTorch; which of them stays there is not defined.
    """
    return lambda: n.op.Gather(dy.reshape([-1]), n.required(1), axis=0)


@rules.vjp("GlobalAveragePool")
def global_average_pool(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent, divided by the number of averaged elements, is repeated over the spatial axes."""
    x = n.required(0)
    spatial = list(range(2, x.rank))
    return lambda: (dy / x.count(spatial)).expand_like(x)


@rules.vjp("GlobalMaxPool")
def global_max_pool(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent goes to the first of the largest elements, as PyTorch's adaptive_max_pool does."""
    op, x = n.op, n.required(0)

    def cotangent() -> Tensor:
        flat = op.Reshape(x, op.ints([0, 0, -1]))
        first = op.ArgMax(flat, axis=2, keepdims=1)
        values = op.Reshape(dy, op.ints([0, 0, 1]))
        return op.ScatterElements(op.zeros_like(flat), first, values, axis=2).reshape_like(x)

    return cotangent


@rules.vjp("GlobalLpPool")
def global_lp_pool(n: Primal, dy: Tensor) -> Cotangent:
    """dx = sign(x) |x|^(p-1) dy y^(1-p); 0 where y is 0."""
    x, y, p = n.required(0), n.outputs[0], n.attr("p", 2)
    return lambda: _norm_slope(x, p) * _over_norm(dy, y, p)


def _max_pool_forms(n: Primal, dy: Tensor, cells: Sequence[Cells] | None) -> Alternatives:
    """How to find the largest elements and put the cotangent there, the pooling included, which indices slow down."""
    attributes = {name: each.value for name, each in n.node.attributes.items() if name != "storage_order"}
    shared = overlap(n)

    def by_indices(x: Tensor, dy: Tensor) -> Tensor:
        _, indices = x.op.emit_many("MaxPool", x, outputs=2, **attributes)
        return _to_indices(dy, indices, x, overlap=shared)

    forms, expected = {_INDICES: by_indices}, _INDICES
    if cells is not None:

        def by_winners(x: Tensor, dy: Tensor) -> Tensor:
            return to_winners(dy, winners(x, x.op.MaxPool(x, **attributes), cells), x, cells)

        forms[_WINNERS] = by_winners
        expected = _WINNERS if _are_winners_faster(n) else _INDICES
    operands = (n.required(0), dy)
    return Alternatives("input gradient of a maximum pool", operands, attributes, forms, expected, plain=_INDICES)


def _are_winners_faster(n: Primal) -> bool:
    """Unless elements are few, or of float64, of which ONNX Runtime has only the kernel that finds indices as well."""
    x = n.required(0)
    has_indices = len(n.outputs) > 1 and bool(n.outputs[1].value.name)
    few = x.static_shape is not None and prod(x.static_shape) <= FEW
    return not has_indices and not few and x.dtype != ir.DataType.DOUBLE


def _to_indices(dy: Tensor, indices: Tensor, like: Tensor, *, overlap: bool) -> Tensor:
    """Zeros of the shape of *like*, with *dy* added at row-major *indices*."""
    if not overlap:
        return put_at_flat_positions(like, indices, dy)
    flat = like.op.zeros_like(like).reshape([-1])
    return add_slices(flat, indices.reshape([-1]), dy.reshape([-1]), 0).reshape_like(like)


def _row_major_indices(n: Primal) -> Tensor:
    y = n.outputs[0]
    if n.attr("storage_order", 0) == 0:
        return n.extra_output(1, ir.DataType.INT64, ir.Shape(y.value.shape or ()))
    attributes = {name: attribute.value for name, attribute in n.node.attributes.items()}
    attributes["storage_order"] = 0
    return n.op.emit_many("MaxPool", n.required(0), outputs=2, **attributes)[1]


def _norm_slope(x: Tensor, p: int) -> Tensor:
    """The derivative of |x|^p / p."""
    op = x.op
    if p == 1:
        return op.Sign(x)
    return x if p == 2 else op.Sign(x) * op.Abs(x) ** (p - 1.0)


def _over_norm(dy: Tensor, y: Tensor, p: int) -> Tensor:
    """dy y^(1-p), 0 where y is 0."""
    op = dy.op
    if p == 1:
        return dy
    empty = y.equals(0.0)
    return op.Where(empty, op.constant(0, y.dtype), dy / op.Where(empty, op.constant(1, y.dtype), y) ** (p - 1.0))
