"""Each form of a convolution's gradients, forced on random sizes, computes what the plainest one does."""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnxgrad
from onnxgrad.passes.convolution_gradients import InputForm, WeightForm
from onnxgrad.passes.rules import convolution_forms

from .comparison import assert_equivalent
from .drawing import WEIGHT, Drawing, Model
from .profiles import some

DEPTHWISE = frozenset({WeightForm.ROWS})
"""Forms for kernels of two dims and groups of one channel in and one out only."""


@st.composite
def convolutions(draw: Any, *, depthwise: bool) -> Model:
    """One Conv or ConvTranspose with symbolic or known batch."""
    d = Drawing(draw(st.data()), batch=draw(st.integers(1, 3)))
    op_type = d.choose("Conv", "ConvTranspose")
    rank = 2 if depthwise else d.draw(st.integers(1, 3))
    group = d.draw(st.integers(2, 4)) if depthwise else d.choose(1, 1, 2, 3)
    inner, outer = (1, 1) if depthwise else (d.draw(st.integers(1, 4)), d.draw(st.integers(1, 4)))

    def per_axis(low: int, high: int) -> list[int]:
        return [d.draw(st.integers(low, high)) for _ in range(rank)]

    kernel, dilations = per_axis(1, 4 if rank < 3 else 2), per_axis(1, 2)
    strides = [1] * rank if d.draw(st.booleans()) else per_axis(1, 3)
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    before, after = ([d.draw(st.integers(0, extent - 1)) for extent in extents] for _ in range(2))
    sizes = [extent + more for extent, more in zip(extents, per_axis(0, 4), strict=True)]
    windows = list(zip(sizes, before, after, extents, strides, strict=True))
    if op_type == "Conv":
        spatial = [(size + a + b - extent) // stride + 1 for size, a, b, extent, stride in windows]
    else:
        spatial = [(size - 1) * stride + extent - a - b for size, a, b, extent, stride in windows]
    weight = d.weight(*((group * outer, inner) if op_type == "Conv" else (group * inner, outer)), *kernel)
    attributes = {"strides": strides, "dilations": dilations, "pads": before + after, "group": group}
    y = d.emit(op_type, "x", weight, d.weight(group * outer), **attributes)
    x = d.normal(d.batch, group * inner, *sizes)
    return d.model(x, y, (d.batch, group * outer, *spatial), symbolic=d.draw(st.booleans()))


def compile_in(model: Model, *, form: Enum) -> onnxgrad.Program:
    """The joint graph with *form* wherever there is a choice, and else the first of its kind."""
    forms = {type(each): each for each in (next(iter(InputForm)), next(iter(WeightForm)), form)}
    with (
        mock.patch.object(convolution_forms, "input_form", return_value=forms[InputForm]),
        mock.patch.object(convolution_forms, "weight_form", return_value=forms[WeightForm]),
    ):
        return onnxgrad.compile(model.proto, wrt=[f"{WEIGHT}*", "x"])


@pytest.mark.parametrize("form", [*InputForm, *WeightForm], ids=str)
def test_forms(form: Enum) -> None:
    @some
    @given(convolutions(depthwise=form in DEPTHWISE))
    def check(model: Model) -> None:
        assert_equivalent(model, partial(compile_in, form=form), partial(compile_in, form=next(iter(WeightForm))))

    check()
