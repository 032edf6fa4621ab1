"""Pad and CenterCropPad against their contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .checking import check_rule


def sample(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


PADS = [
    ([1, 2, 0, 1], None),
    ([0, 2, 0, 0], None),
    ([2, 1], [1]),
    ([2, 0, 1, 3], [-1, 0]),
    ([0, 0], [0]),
]


def pad(mode: str, pads: list[int], axes: list[int] | None):
    axes = [0, 1] if axes is None else axes

    def function(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        fill = rest[1] if mode == "constant" and len(rest) > 1 and rest[1].is_floating_point() else None
        for index, axis in enumerate(axes):
            before, after = pads[index], pads[index + len(axes)]
            size = x.shape[axis]
            sources = np.pad(np.arange(size), (before, after), mode if mode != "constant" else "edge")
            padded = x.index_select(axis, torch.tensor(sources))
            if mode == "constant":
                inside = torch.zeros(len(sources), dtype=torch.bool)
                inside[before : before + size] = True
                shape = [1] * x.ndim
                shape[axis] = -1
                padded = torch.where(inside.reshape(shape), padded, 0.0 if fill is None else fill.reshape(()))
            x = padded
        return x

    return function


def pad_inputs(pads, axes, fill) -> list[np.ndarray | None]:
    return [sample(4, 5), ints(*pads), fill, *([] if axes is None else [ints(*axes)])]


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(("pads", "axes"), PADS)
@pytest.mark.parametrize("constant", [True, False])
def test_pad(mode: str, pads: list[int], axes: list[int] | None, constant: bool) -> None:
    constants = [3] if axes else []
    check_rule(
        "Pad",
        pad_inputs(pads, axes, None),
        attributes={"mode": mode},
        constants=[1, *constants] if constant else constants,
        torch_function=pad(mode, pads, axes),
    )


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(("pads", "axes"), PADS)
def test_pad_with_a_differentiable_constant(shape, pads, axes) -> None:
    check_rule(
        "Pad",
        pad_inputs(pads, axes, sample(*shape)),
        constants=[1, 3] if axes else [1],
        torch_function=pad("constant", pads, axes),
    )
