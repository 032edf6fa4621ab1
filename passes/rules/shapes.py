"""Rules of the operators that rearrange elements without computing: Reshape, Transpose, Expand and their kin."""

from __future__ import annotations

from ..broadcasting import unbroadcast
from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .sizes import Size, join_sizes, size_of
from .slicing import elements

rules = Registry()

rules.zero("Shape", "Size", reason="its output depends on the shape of the input only")


@rules.vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze", inputs=(0,))
def reshape(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent takes the shape of the input."""
    return lambda: dy.reshape_like(n.required(0))


@rules.vjp("Expand", inputs=(0,))
def expand(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is summed over the axes along which the input was repeated."""
    return lambda: unbroadcast(dy, n.required(0))


@rules.vjp("Transpose")
def transpose(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is transposed by the inverse permutation."""
    rank = n.required(0).rank
    perm = list(n.attr("perm", range(rank)[::-1]))
    return lambda: dy.transpose([perm.index(axis) for axis in range(rank)])


@rules.vjp("Tile", inputs=(0,))
def tile(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangents of the copies are summed."""
    op, x = n.op, n.required(0)
    repeats = elements(n.required(1), x.rank)
    copied = [axis for axis, count in enumerate(repeats) if count != 1]

    def cotangent() -> Tensor:
        sizes: list[Size] = []
        for axis, count in enumerate(repeats):
            sizes += [count, size_of(x, axis)] if axis in copied else [size_of(x, axis)]
        copies = [axis + index for index, axis in enumerate(copied)]
        return dy.reshape(join_sizes(op, sizes)).sum(copies)

    return cotangent


@rules.vjp("Trilu", inputs=(0,))
def trilu(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent keeps the same triangle."""
    return lambda: n.op.Trilu(dy, n.input(1), upper=n.attr("upper", 1))


@rules.vjp("ReverseSequence", inputs=(0,))
def reverse_sequence(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is reversed again."""
    axes = {"batch_axis": n.attr("batch_axis", 1), "time_axis": n.attr("time_axis", 0)}
    return lambda: n.op.ReverseSequence(dy, n.required(1), **axes)


@rules.vjp("SpaceToDepth")
def space_to_depth(n: Primal, dy: Tensor) -> Cotangent:
    """The blocks go back to where they were in space."""
    return lambda: n.op.DepthToSpace(dy, blocksize=n.attr("blocksize"), mode="DCR")


@rules.vjp("DepthToSpace")
def depth_to_space(n: Primal, dy: Tensor) -> Cotangent:
    """The blocks go back to the channels, in the order of the mode: depth-column-row or column-row-depth."""
    op, x, blocksize = n.op, n.required(0), n.attr("blocksize")

    def cotangent() -> Tensor:
        blocks = op.SpaceToDepth(dy, blocksize=blocksize)
        if n.attr("mode", "DCR") == "DCR":
            return blocks
        sizes = [size_of(x, 0), blocksize**2, size_of(dy, 1), size_of(x, 2), size_of(x, 3)]
        return blocks.reshape(join_sizes(op, sizes)).transpose([0, 2, 1, 3, 4]).reshape_like(x)

    return cotangent
