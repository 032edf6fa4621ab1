"""Slice, Split and Concat against their contract."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

from onnxgrad.passes.rules import BUILTIN_RULES

from .checking import check_rule, joint_graph, run_runtime

INT_MAX, INT_MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


SLICES = [
    ([1], [3], [0], None),
    ([1, 0], [3, 2], [0, 1], None),
    ([0], [2], None, None),
    ([0, 1, 0], [4, 3, 2], None, None),
    ([-2], [INT_MAX], [1], None),
    ([0], [-1], [-1], None),
    ([-100], [100], [2], None),
    ([1], [100], [2], None),
    ([9], [100], [2], None),
    ([0], [INT_MAX], [0], None),
    ([1], [INT_MAX], [1], [2]),
    ([0], [INT_MAX], [1], [2]),
    ([0, 1], [4, 5], [0, 1], [3, 2]),
    ([-1], [INT_MIN], [1], [-1]),
    ([3], [0], [0], [-2]),
    ([4, 0], [INT_MIN, 6], [1, 2], [-3, 1]),
    ([10], [1], [1], [-1]),
    ([2], [2], [1], None),
    ([3], [1], [1], None),
    ([0], [1], [1], [-1]),
]


def sliced(start: list[int], end: list[int], axes: list[int] | None, steps: list[int] | None):
    def function(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        for index, (first, last) in enumerate(zip(start, end, strict=True)):
            axis = axes[index] if axes else index
            size = x.shape[axis]
            positions = list(range(*slice(first, last, steps[index] if steps else 1).indices(size)))
            x = x.index_select(axis, torch.tensor(positions, dtype=torch.int64))
        return x

    return function


def slice_inputs(start, end, axes, steps) -> list[np.ndarray | None]:
    inputs = [sample(4, 5, 6), ints(*start), ints(*end), None if axes is None else ints(*axes)]
    return [*inputs, ints(*steps)] if steps else inputs


@pytest.mark.parametrize(("start", "end", "axes", "steps"), SLICES)
def test_slice_with_constant_bounds(start, end, axes, steps) -> None:
    inputs = slice_inputs(start, end, axes, steps)
    check_rule(
        "Slice",
        inputs,
        constants=[index for index in range(1, len(inputs)) if inputs[index] is not None],
        torch_function=sliced(start, end, axes, steps),
        runtime_dtypes=(np.float32, np.float16) if start == [1] else (np.float32,),
    )


@pytest.mark.parametrize(("start", "end", "axes", "steps"), SLICES)
def test_slice_with_computed_bounds(start, end, axes, steps) -> None:
    inputs = slice_inputs(start, end, axes, steps)
    for constants in ([], [3] if axes else [], [3, 4] if axes and steps else []):
        check_rule(
            "Slice",
            inputs,
            constants=constants,
            torch_function=sliced(start, end, axes, steps),
            second_order=False,
            runtime_dtypes=(np.float32,),
        )


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("sizes", [[3, 1], [1, 1, 2], [0, 4], [4]])
def test_split(axis: int, sizes: list[int]) -> None:
    check_rule(
        "Split",
        [sample(4, 4, 4), ints(*sizes)],
        constants=[1],
        attributes={"axis": axis},
        outputs=len(sizes),
        torch_function=lambda x, _: torch.split(x, sizes, axis),
    )


@pytest.mark.parametrize(("size", "count"), [(6, 3), (7, 3), (5, 1)])
def test_split_into_equal_parts(size: int, count: int) -> None:
    check_rule(
        "Split",
        [sample(2, size)],
        attributes={"axis": 1, "num_outputs": count},
        outputs=count,
        torch_function=lambda x: torch.split(x, -(-size // count), 1),
    )


def test_slice_between_transposes() -> None:
    """The runtime moves the transposes across the Pad in the backward part."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2, 3, 4] x) => (float[2, 3, 2] y) '
        "<int64[1] one = {1}, int64[1] three = {3}, float[3, 4, 2] turned, float[3, 4, 2] e, float[3, 2, 2] cut> "
        "{ turned = Transpose<perm = [1, 2, 0]>(x)  e = Exp(turned) cut = Slice(e, one, three, one) "
        "y = Transpose<perm = [2, 0, 1]>(cut) }"
    )
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    feeds = {"x": x, "y.grad_output": np.ones((2, 3, 2), np.float32)}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    expected = np.zeros_like(x)
    expected[:, :, 1:3] = np.exp(x[:, :, 1:3])
    np.testing.assert_allclose(dx, expected, 1e-6)


def test_split_with_an_unused_piece() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[rows, 5] x) => (float[rows, 2] y) '
        "<int64[3] sizes = {1, 2, 2}, float[rows, 1] a, float[rows, 2] b> { a, y, b = Split<axis = 1>(x, sizes) }"
    )
    feeds = {"x": np.zeros((2, 5), np.float32), "y.grad_output": np.array([[1, 2], [3, 4]], np.float32)}
    (dx,) = run_runtime(joint_graph(model, ["x"], BUILTIN_RULES), feeds)
    np.testing.assert_array_equal(dx, [[0, 1, 2, 0, 0], [0, 3, 4, 0, 0]])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_concat(axis: int, count: int) -> None:
    shapes = [[2, 2, 2] for _ in range(count)]
    for index, shape in enumerate(shapes):
        shape[axis] = index + 1
    check_rule(
        "Concat",
        [sample(*shape, seed=index) for index, shape in enumerate(shapes)],
        attributes={"axis": axis},
        torch_function=lambda *pieces: torch.cat(pieces, axis),
    )


@pytest.mark.parametrize("wrt", [[0], [1], [2], [0, 2]])
def test_concat_with_inactive_pieces(wrt: list[int]) -> None:
    check_rule(
        "Concat",
        [sample(2, 1), sample(2, 3), sample(2, 2)],
        wrt=wrt,
        attributes={"axis": 1},
        torch_function=lambda *pieces: torch.cat(pieces, 1),
    )
