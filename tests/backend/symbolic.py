"""A model in which no size is declared."""

from __future__ import annotations

import onnx

RANKS = {("Resize", 1), ("Resize", 2), ("Resize", 3)}
"""Inputs, by operator and index, whose length is a rank; ONNX Runtime takes an unknown one for 0."""


def with_symbolic_dims(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of *model* in which every dim of an input or output has a name of its own, and no other shape is given.

    Those of RANKS stay.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    fixed = {name for node in model.graph.node for i, name in enumerate(node.input) if (node.op_type, i) in RANKS}
    number = 0
    for value in (*copy.graph.input, *copy.graph.output):
        if value.name in fixed:
            continue
        tensor = value.type.tensor_type
        for dim in tensor.shape.dim if value.type.HasField("tensor_type") else ():
            dim.dim_param = f"d{number}"
            number += 1
    return copy
