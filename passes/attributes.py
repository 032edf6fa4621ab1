"""Attributes of nodes, made of Python's own objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir


def make_attributes(values: Mapping[str, Any]) -> list[ir.Attr]:
    """The attributes of *values* by name, each of the type that its value has; see `ir.convenience.convert_attribute`.

    Raises TypeError for a value that no attribute holds.
    """
    return [make_attribute(name, value) for name, value in values.items()]


def make_attribute(name: str, value: Any) -> ir.Attr:
    """As `make_attributes`, of one."""
    # It would take twenty times as long to be told that a list is neither a graph nor a tensor.
    if isinstance(value, list | tuple) and value and all(isinstance(each, int) for each in value):
        return ir.AttrInt64s(name, value)
    return ir.convenience.convert_attribute(name, value)
