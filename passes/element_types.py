"""The element types by kind. To ask an `ir.DataType` itself takes fifty times as long, each time."""

from __future__ import annotations

import onnx_ir as ir

FLOATS = frozenset(dtype for dtype in ir.DataType if dtype.is_floating_point())
INTEGERS = frozenset(dtype for dtype in ir.DataType if dtype.is_integer())
