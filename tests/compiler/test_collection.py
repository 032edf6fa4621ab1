"""The pause of the garbage collector ends in any case."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import onnxgrad
from onnxgrad.compiler.collection import without_garbage_collection


@pytest.fixture(autouse=True)
def enabled_afterwards() -> Iterator[None]:
    yield
    gc.enable()


def test_the_collector_rests_and_goes_on() -> None:
    with without_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_an_error() -> None:
    with pytest.raises(onnxgrad.InputError):
        onnxgrad.compile("there is no such file")
    assert gc.isenabled()


def test_it_stays_off_where_it_was() -> None:
    gc.disable()
    with without_garbage_collection():
        pass
    assert not gc.isenabled()
