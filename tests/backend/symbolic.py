"""A model in which no size is declared."""

from __future__ import annotations

import onnx


def with_symbolic_dims(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of *model* in which every dim of an input or output has a name of its own, and no other shape is given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    number = 0
    for value in (*copy.graph.input, *copy.graph.output):
        tensor = value.type.tensor_type
        for dim in tensor.shape.dim if value.type.HasField("tensor_type") else ():
            dim.dim_param = f"d{number}"
            number += 1
    return copy
