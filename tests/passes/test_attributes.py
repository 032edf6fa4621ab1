"""Attributes are of the types that Python's own objects have."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.passes.attributes import make_attributes

TYPES = ir.AttributeType


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, TYPES.INT),
        (1.0, TYPES.FLOAT),
        ("a", TYPES.STRING),
        ([1, 2], TYPES.INTS),
        ((0,), TYPES.INTS),
        ([1.0], TYPES.FLOATS),
        (["a"], TYPES.STRINGS),
        (ir.tensor(np.ones(2, np.float32)), TYPES.TENSOR),
        (ir.Graph([], [], nodes=[]), TYPES.GRAPH),
    ],
)
def test_the_type_is_that_of_the_value(value: Any, kind: ir.AttributeType) -> None:
    (attribute,) = make_attributes({"name": value})
    assert (attribute.name, attribute.type) == ("name", kind)
    assert list(attribute.value) == list(value) if isinstance(value, list | tuple) else attribute.value == value


def test_what_no_attribute_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="dict"):
        make_attributes({"name": {}})
