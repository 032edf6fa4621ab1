"""Rules on random shapes, axes and attributes: finite differences agree, with known and with symbolic sizes.

`check_rule` also holds that each gradient has the shape and the type of what it belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

from .checking import check_rule

ARITHMETIC = "Add Sub Mul Div Pow".split()
REDUCTIONS = "Sum Mean Prod L1 L2 LogSum LogSumExp SumSquare Max Min".split()
BORDERS = "constant edge reflect wrap".split()

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
Draw = Any


def sample(shape: tuple[int, ...], low: float = 0.3, high: float = 2.0) -> np.ndarray:
    """Distinct values in random order, so that no two are as near as a finite difference."""
    count = int(np.prod(shape))
    return np.random.default_rng([count, len(shape)]).permutation(np.linspace(low, high, count)).reshape(shape)


def check(op_type: str, inputs: list[np.ndarray | None], **options: Any) -> None:
    check_rule(op_type, inputs, runtime_dtypes=(np.float32,), second_order=False, **options)


shapes = array_shapes(min_dims=1, max_dims=4, max_side=4)


@few
@given(
    mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3), st.sampled_from("Add Sub Mul Div Pow".split())
)
def test_broadcast_arithmetic(broadcast: Draw, op_type: str) -> None:
    a, b = broadcast.input_shapes
    check(op_type, [sample(a), sample(b)])


@few
@given(mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3), st.sampled_from("Max Min Sum Mean".split()))
def test_broadcast_variadic(broadcast: Draw, op_type: str) -> None:
    check(op_type, [sample(s, 1 + i, 3 + i / 7) for i, s in enumerate(broadcast.input_shapes)])


@few
@given(mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3))
def test_broadcast_choice(broadcast: Draw) -> None:
    c, a, b = broadcast.input_shapes
    check("Where", [sample(c) > 1.1, sample(a), sample(b)])


@few
@given(st.data(), shapes, st.sampled_from(REDUCTIONS), st.booleans(), st.booleans())
def test_reductions(data: Draw, shape: tuple[int, ...], kind: str, keepdims: bool, noop: bool) -> None:
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), max_size=rank, unique_by=lambda axis: axis % rank))
    attributes = {"keepdims": int(keepdims), "noop_with_empty_axes": int(noop)}
    given_axes = [np.array(axes, np.int64)] if axes else []
    check(f"Reduce{kind}", [sample(shape), *given_axes], attributes=attributes, constants=[1] if axes else [])


@few
@given(mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, max_side=3))
def test_products_of_stacked_matrices(broadcast: Draw) -> None:
    a, b = broadcast.input_shapes
    check("MatMul", [sample(a), sample(b)])


@few
@given(st.data(), shapes)
def test_slices(data: Draw, shape: tuple[int, ...]) -> None:
    rank = len(shape)
    axes = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=rank, unique_by=lambda a: a % rank))
    steps = [data.draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]
    starts, ends = [], []
    for axis, step in zip(axes, steps, strict=True):
        size = shape[axis]
        first = data.draw(st.integers(0, size - 1))
        starts.append(first - data.draw(st.sampled_from([0, size])))
        beyond = data.draw(st.integers(first + 1, size + 2) if step > 0 else st.integers(-size - 2, -size - 1))
        ends.append(beyond)
    constants = [np.array(values, np.int64) for values in (starts, ends, axes, steps)]
    check("Slice", [sample(shape), *constants], constants=[1, 2, 3, 4])


@few
@given(
    st.data(),
    array_shapes(min_dims=1, max_dims=3, min_side=3, max_side=5),
    st.sampled_from("constant edge reflect wrap".split()),
)
def test_pads(data: Draw, shape: tuple[int, ...], mode: str) -> None:
    pads = [data.draw(st.integers(0, 2)) for _ in range(2 * len(shape))]  # negative ones the evaluator lacks
    check("Pad", [sample(shape), np.array(pads)], attributes={"mode": mode}, constants=[1])


@few
@given(st.data(), shapes)
def test_gathers(data: Draw, shape: tuple[int, ...]) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    indices = data.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=5))
    check("Gather", [sample(shape), np.array(indices)], attributes={"axis": axis})


@few
@given(st.data(), shapes, st.sampled_from("Softmax LogSoftmax".split()))
def test_softmaxes(data: Draw, shape: tuple[int, ...], op_type: str) -> None:
    check(op_type, [sample(shape)], attributes={"axis": data.draw(st.integers(-len(shape), len(shape) - 1))})


@few
@given(st.data(), shapes, st.booleans(), st.booleans())
def test_running_sums(data: Draw, shape: tuple[int, ...], exclusive: bool, reverse: bool) -> None:
    axis = np.array(data.draw(st.integers(-len(shape), len(shape) - 1)))
    check(
        "CumSum",
        [sample(shape), axis],
        attributes={"exclusive": int(exclusive), "reverse": int(reverse)},
        constants=[1],
    )


@few
@given(st.data(), st.integers(1, 2), st.integers(1, 2))
def test_convolutions(data: Draw, rank: int, group: int) -> None:
    def per_axis(low: int, high: int, count: int = rank) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(count)]

    kernel, dilations = per_axis(1, 3), per_axis(1, 2)
    sizes = [(k - 1) * d + 1 + extra for k, d, extra in zip(kernel, dilations, per_axis(0, 3), strict=True)]
    attributes = {"strides": per_axis(1, 3), "dilations": dilations, "pads": per_axis(0, 2, 2 * rank), "group": group}
    x, w = sample((2, 2 * group, *sizes)), sample((2 * group, 2, *kernel))
    check("Conv", [x, w, sample((2 * group,))], attributes=attributes)


@few
@given(st.data(), st.integers(1, 2), st.sampled_from(["MaxPool", "AveragePool", "LpPool"]), st.booleans())
def test_pools(data: Draw, rank: int, op_type: str, ceil_mode: bool) -> None:
    kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [data.draw(st.integers(1, 3)) for _ in range(rank)],
        "pads": [data.draw(st.integers(0, k - 1)) for k in kernel * 2],
        "ceil_mode": int(ceil_mode),
    }
    sizes = [k + data.draw(st.integers(0, 4)) for k in kernel]
    check(op_type, [sample((1, 2, *sizes))], attributes=attributes)
