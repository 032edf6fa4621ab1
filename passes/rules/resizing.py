"""The rule of Resize."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .resizing_blocks import BLOCK, Blocks, apply_in_blocks, find_blocks
from .sizes import Size, join_sizes, size_of
from .slicing import crop

rules = Registry()

_REPEATS = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("half_pixel", "round_prefer_floor"),
    ("pytorch_half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
}
"""The coordinates and roundings by which nearest-neighbour enlargement by an integer repeats each element."""

_OWN_ATTRIBUTES = ("axes", "extrapolation_value", "keep_aspect_ratio_policy")


@rules.vjp("Resize", inputs=(0,))
def resize(n: Primal, dy: Tensor) -> Cotangent:
    """Along each axis the operator is a matrix, and the cotangent is multiplied by its transpose.

    The matrix is what Resize makes of the identity, so every mode is covered. Enlarging by repetition is undone
    by sums over blocks instead.
    """
    axes = _resized_axes(n)
    shared_scale = n.attr("keep_aspect_ratio_policy", "stretch") != "stretch"
    repeats = None if shared_scale else _repeats(n, axes)
    matrix = _matrix_of_shared_scale if shared_scale else _matrix

    def cotangent() -> Tensor:
        if repeats is not None:
            return _sum_blocks(n.required(0), dy, repeats)
        result = dy
        for axis, position in axes.items():
            blocks = None if shared_scale else _blocks(n, axis, position)
            if blocks is None:
                result = _apply(matrix(n, axis, position), result, axis)
            else:
                comb = n.op.constant(np.eye(2 * BLOCK), _weight_type(n.required(0)))
                result = apply_in_blocks(partial(_resized_rows, n, position), comb, result, axis, blocks)
        return result

    return cotangent


def _resized_axes(n: Primal) -> dict[int, int]:
    """The axes that may change, each with its position in the scales or sizes."""
    x, y, scales = n.required(0), n.outputs[0], _scales(n)
    named = [axis % x.rank for axis in n.attr("axes", range(x.rank))]
    axes = {axis: position for position, axis in enumerate(named)}
    if n.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return axes
    if scales is not None:
        return {axis: index for axis, index in axes.items() if scales is not None and scales[index] != 1}
    return {axis: index for axis, index in axes.items() if x.shape[axis] is None or x.shape[axis] != y.shape[axis]}


def _scales(n: Primal) -> list[float] | None:
    """The scales if they are known constants."""
    scales = n.input(2)
    if scales is None or scales.constant is None or not scales.constant.size:
        return None
    return [float(scale) for scale in scales.constant]


def _repeats(n: Primal, axes: dict[int, int]) -> dict[int, int] | None:
    """How often each element is repeated along each axis, if repeating is all that the node does."""
    how = (
        n.attr("coordinate_transformation_mode", "half_pixel"),
        n.attr("nearest_mode", "round_prefer_floor"),
    )
    if n.attr("mode", "nearest") != "nearest" or how not in _REPEATS:
        return None
    x, y, scales = n.required(0), n.outputs[0], _scales(n)
    repeats = {}
    for axis, position in axes.items():
        before, after = x.shape[axis], y.shape[axis]
        if scales is not None:
            scale = scales[position]
        elif isinstance(before, int) and isinstance(after, int) and before:
            scale = after / before
        else:
            return None
        if scale < 1 or scale != int(scale):
            return None
        repeats[axis] = int(scale)
    return repeats


def _blocks(n: Primal, axis: int, position: int) -> Blocks | None:
    before, after, scales = n.required(0).shape[axis], n.outputs[0].shape[axis], _scales(n)
    if not isinstance(before, int) or not isinstance(after, int):
        return None
    return find_blocks(n, before, after, None if scales is None else scales[position])


def _sum_blocks(x: Tensor, dy: Tensor, repeats: dict[int, int]) -> Tensor:
    sizes: list[Size] = []
    copies = []
    for axis in range(x.rank):
        sizes.append(size_of(x, axis))
        if axis in repeats:
            copies.append(len(sizes))
            sizes.append(repeats[axis])
    return dy.reshape(join_sizes(x.op, sizes)).sum(copies)


def _matrix(n: Primal, axis: int, position: int) -> Tensor:
    """What the node does along *axis*: the matrix, transposed, of shape (size before, size after)."""
    op, x = n.op, n.required(0)
    before = size_of(x, axis)
    identity = op.EyeLike(op.Expand(op.constant(0, _weight_type(x)), join_sizes(op, [before, before])))
    return _resized_rows(n, position, identity).cast(x.dtype)


def _weight_type(x: Tensor) -> ir.DataType:
    return ir.DataType.FLOAT if x.dtype.bitwidth < 32 else x.dtype


def _resized_rows(n: Primal, position: int, rows: Tensor) -> Tensor:
    """What the node makes of *rows*, a matrix, along the axis of that *position* in the scales or sizes."""
    op, roi, scales, sizes = n.op, n.input(1), n.input(2), n.input(3)
    if roi is not None and roi.shape != (0,):
        count = len(n.attr("axes", range(n.required(0).rank)))
        ones, zeros = op.constant([1, 1, 1], roi.dtype), op.constant([0, 0, 0], roi.dtype)
        start, end = _pick(roi, position), _pick(roi, count + position)
        roi = op.Concat(zeros, start, ones, end, axis=0)
    if scales is not None and scales.shape != (0,):
        scales = op.Concat(op.constant([1, 1, 1], scales.dtype), _pick(scales, position), axis=0)
        sizes = None
    else:
        assert sizes is not None
        sizes = join_sizes(op, [1, 1, size_of(rows, 0), _pick(sizes, position)])
    attributes = {name: attribute.value for name, attribute in n.node.attributes.items() if name not in _OWN_ATTRIBUTES}
    return op.Resize(rows.unsqueeze([0, 1]), roi, scales, sizes, **attributes).squeeze([0, 1])


def _matrix_of_shared_scale(n: Primal, axis: int, _: int) -> Tensor:
    """As `_matrix`, where the sizes of all resized axes decide on one scale.

    So all of them must be there: the identity is repeated along the others. As the weights of each of their elements
    add up to 1, the result is the same everywhere along them, and read off at their start.
    """
    op, x = n.op, n.required(0)
    resized = [each % x.rank for each in n.attr("axes", range(x.rank))]
    sizes = [size_of(x, each) if each in resized else 1 for each in range(x.rank)]
    free = next((each for each in range(x.rank) if each not in resized), None)
    if free is None:
        # One more axis in front of them, which is not resized.
        free, axis, sizes, resized = 0, axis + 1, [1, *sizes], [each + 1 for each in resized]
    rank = len(sizes)
    dtype = _weight_type(x)
    before = sizes[free] = sizes[axis]
    identity = op.EyeLike(op.Expand(op.constant(0, dtype), join_sizes(op, [before, before])))
    placed = identity.unsqueeze([each for each in range(rank) if each not in (free, axis)])
    if free > axis:
        placed = placed.transpose(_swapped(rank, free, axis))
    repeated = op.Expand(placed, join_sizes(op, sizes))
    attributes = {name: attribute.value for name, attribute in n.node.attributes.items()} | {"axes": resized}
    matrices = op.Resize(repeated, n.input(1), None, n.input(3), **attributes)
    matrices.value.shape = ir.Shape([None] * rank)
    others = [each for each in range(rank) if each not in (free, axis)]
    matrix = crop(matrices, dict.fromkeys(others, (0, 1))).squeeze(others)
    return (matrix if free < axis else matrix.swap_last_two()).cast(x.dtype)


def _swapped(rank: int, a: int, b: int) -> list[int]:
    perm = list(range(rank))
    perm[a], perm[b] = b, a
    return perm


def _pick(vector: Tensor, position: int) -> Tensor:
    return crop(vector, {0: (position, position + 1)})


def _apply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """*x* with *matrix* multiplied to its vectors along *axis*."""
    if axis == x.rank - 2:
        return matrix @ x
    if axis == x.rank - 1:
        return x @ matrix.swap_last_two()
    perm = [*(other for other in range(x.rank) if other != axis), axis]
    inverse = [perm.index(other) for other in range(x.rank)]
    return (x.transpose(perm) @ matrix.swap_last_two()).transpose(inverse)
