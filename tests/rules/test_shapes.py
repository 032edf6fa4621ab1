"""The operators that rearrange elements against their contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .checking import check_rule


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("shape", "target", "allowzero"),
    [
        ((2, 3, 4), (6, 4), 0),
        ((2, 3, 4), (-1,), 0),
        ((2, 3, 4), (0, -1), 0),
        ((2, 3, 4), (0, 0, 2, 2), 0),
        ((2, 3), (2, 1, 3), 0),
        ((1,), (), 0),
        ((0, 3), (3, 0), 1),
        ((0, 3), (0, 5), 1),
        ((2, 0, 3), (0, 0, 3), 0),
    ],
)
def test_reshape(shape, target, allowzero) -> None:
    sizes = [shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(target)]
    check_rule(
        "Reshape",
        [sample(*shape), ints(*target)],
        attributes={"allowzero": allowzero},
        constants=[1],
        torch_function=lambda x, _: x.reshape(torch.Size(sizes)),
    )


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(axis: int) -> None:
    check_rule(
        "Flatten",
        [sample(2, 3, 4)],
        attributes={"axis": axis},
        torch_function=lambda x: x.reshape(int(np.prod((2, 3, 4)[:axis])), -1),
    )


@pytest.mark.parametrize("axes", [None, [0], [-1], [2, 0]])
def test_squeeze(axes: list[int] | None) -> None:
    x = sample(1, 3, 1)
    inputs = [x] if axes is None else [x, ints(*axes)]
    check_rule(
        "Squeeze",
        inputs,
        constants=[1] if axes else [],
        torch_function=lambda x, _=None: x.squeeze() if axes is None else x.squeeze(axes),
        dynamic=axes is not None,
    )


@pytest.mark.parametrize("axes", [[0], [-1], [0, 3], [-2, 1]])
def test_unsqueeze(axes: list[int]) -> None:
    check_rule(
        "Unsqueeze",
        [sample(2, 3), ints(*axes)],
        constants=[1],
        torch_function=lambda x, _: x.reshape(np.expand_dims(np.empty((2, 3)), axes).shape),
    )


@pytest.mark.parametrize("constants", [[1], []])
@pytest.mark.parametrize(
    ("shape", "target"),
    [((3,), (2, 3)), ((2, 1), (2, 3)), ((2, 1), (4, 1, 3)), ((2, 3), (1, 3)), ((), (2, 2)), ((1,), (0,)), ((2,), (2,))],
)
def test_expand(shape, target, constants) -> None:
    check_rule(
        "Expand",
        [sample(*shape), ints(*target)],
        constants=constants,
        torch_function=lambda x, _: x.expand(np.broadcast_shapes(shape, target)),
    )


@pytest.mark.parametrize("perm", [None, [0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1]])
def test_transpose(perm: list[int] | None) -> None:
    check_rule(
        "Transpose",
        [sample(2, 3, 4)],
        attributes={} if perm is None else {"perm": perm},
        torch_function=lambda x: x.permute(perm or [2, 1, 0]),
    )


@pytest.mark.parametrize("constants", [[1], []])
@pytest.mark.parametrize("repeats", [[1, 2, 1], [2, 3, 1], [1, 1, 1], [3, 1, 2], [1, 0, 2]])
def test_tile(repeats: list[int], constants: list[int]) -> None:
    check_rule(
        "Tile",
        [sample(2, 3, 2), ints(*repeats)],
        constants=constants,
        torch_function=lambda x, _: x.tile(repeats),
    )


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -2, 7])
def test_trilu(upper: int, k: int | None) -> None:
    function = torch.triu if upper else torch.tril
    check_rule(
        "Trilu",
        [sample(2, 3, 4), *([] if k is None else [np.array(k)])],
        attributes={"upper": upper},
        torch_function=lambda x, _=None: function(x, k or 0),
    )


@pytest.mark.parametrize(("batch_axis", "time_axis"), [(0, 1), (1, 0)])
def test_reverse_sequence(batch_axis: int, time_axis: int) -> None:
    lengths = [1, 2, 3]

    def function(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        rows = x if batch_axis == 0 else x.transpose(0, 1)
        reversed_rows = torch.stack(
            [torch.cat([row[:length].flip(0), row[length:]]) for row, length in zip(rows, lengths, strict=True)]
        )
        return reversed_rows if batch_axis == 0 else reversed_rows.transpose(0, 1)

    check_rule(
        "ReverseSequence",
        [sample(3, 3, 2), ints(*lengths)],
        attributes={"batch_axis": batch_axis, "time_axis": time_axis},
        torch_function=function,
    )


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        if mode == "CRD":
            return torch.nn.functional.pixel_shuffle(x, 2)
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, 2, 2, channels // 4, height, width).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(batch, channels // 4, 2 * height, 2 * width)

    check_rule("DepthToSpace", [sample(2, 8, 2, 3)], attributes={"blocksize": 2, "mode": mode}, torch_function=function)


def test_space_to_depth() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        blocks = torch.nn.functional.pixel_unshuffle(x, 2).reshape(2, 3, 4, 2, 1)
        return blocks.transpose(1, 2).reshape(2, 12, 2, 1)

    check_rule("SpaceToDepth", [sample(2, 3, 4, 2)], attributes={"blocksize": 2}, torch_function=function)
