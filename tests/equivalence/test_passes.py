"""Each pass alone, and all of them together, leave the values of random models as they are."""

from __future__ import annotations

import pytest
from hypothesis import given

from .drawing import Model
from .models import models
from .pass_subsets import check, optional_passes
from .profiles import few, many


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
