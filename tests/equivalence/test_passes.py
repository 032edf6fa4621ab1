"""Each pass alone, and all of them together, leave the values of random models as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from .comparison import assert_equivalent
from .drawing import Model
from .models import models
from .pass_subsets import compile_with, optional_passes
from .profiles import few, many


def check(model: Model, keep: Callable[[str], bool], **options: Any) -> None:
    assert_equivalent(model, lambda m: compile_with(m, keep, **options), lambda m: compile_with(m, lambda name: False))


@many
@given(models())
def test_all_passes(model: Model) -> None:
    check(model, lambda name: True)


@few
@given(models())
def test_all_passes_with_checkpoints(model: Model) -> None:
    check(model, lambda name: True, checkpoint=2)


@pytest.mark.parametrize("only", optional_passes())
@few
@given(models())
def test_one_pass(only: str, model: Model) -> None:
    options = {"checkpoint": 2} if only == "Checkpoint" else {}
    check(model, lambda name: name == only, **options)
