"""The forward model as it came, carried in the joint graph so that tuned weights can be written back into it.

The model's metadata holds the original file without the weights that the joint graph has under the same name. It
makes the tuned model the original one: inputs, outputs, names, opset, functions and metadata, with other weights.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_tensor

from ..passes.errors import InvalidModelError, UnsupportedError
from .load import tensors_of, without_initializers

ORIGINAL_KEY = "onnxgrad.original"

_IN_JOINT_GRAPH = "onnxgrad:joint-graph"


def keep_original(original: onnx.ModelProto, folder: Path | None, joint: ir.Model) -> None:
    """Put *original*, without the weights that *joint* has too, into the metadata of *joint*.

    Args:
        folder: where the external data of *original* lies, None if it has none.
    """
    slim = without_initializers(original)
    initializers = joint.graph.initializers
    for tensor in original.graph.initializer:
        slim.graph.initializer.append(_stub(tensor) if _same(tensor, initializers) else tensor)
    for node in slim.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                named = onnx.TensorProto()
                named.CopyFrom(attribute.t)
                named.name = node.output[0]
                if _same(named, initializers):
                    attribute.t.CopyFrom(_stub(attribute.t))
    if folder is not None:
        for tensor in tensors_of(slim):
            if tensor.data_location == onnx.TensorProto.EXTERNAL and not _is_stub(tensor):
                load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = onnx.TensorProto.DEFAULT
                tensor.ClearField("external_data")
    data = zlib.compress(slim.SerializeToString(), 9)
    joint.metadata_props[ORIGINAL_KEY] = base64.b64encode(data).decode("ascii")


def restore_original(joint: ir.Model, parameters: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The forward model that `keep_original` was given, with *parameters* as its weights.

    Raises UnsupportedError for a parameter that the original file computes inside a function, where a value of
    its own cannot be stored.
    """
    text = joint.metadata_props.get(ORIGINAL_KEY)
    if text is None:
        raise InvalidModelError("The joint graph does not carry its forward model; compile it again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(zlib.decompress(base64.b64decode(text)))
    except Exception as error:
        raise InvalidModelError(f"The forward model that the joint graph carries is damaged: {error}") from error

    left = dict(parameters)

    def fill(tensor: onnx.TensorProto, name: str) -> None:
        if name in parameters:
            filled = onnx.numpy_helper.from_array(np.ascontiguousarray(left.pop(name, parameters[name])))
        elif _is_stub(tensor):
            value = joint.graph.initializers[name].const_value
            assert value is not None
            filled = ir.serde.serialize_tensor(ir.tensor(value.numpy(), dtype=value.dtype))
        else:
            return
        _copy_description(filled, tensor)
        tensor.CopyFrom(filled)

    graph = model.graph
    for tensor in graph.initializer:
        fill(tensor, tensor.name)
    for node in list(graph.node):
        output = node.output[0] if node.output else ""
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    fill(attribute.t, output)
        elif output in left and node.op_type in ("ConstantOfShape", "Identity"):
            graph.initializer.append(onnx.numpy_helper.from_array(left.pop(output), output))
            graph.node.remove(node)
    if left:
        raise UnsupportedError(
            f"The original model computes {', '.join(sorted(left))} inside a function or from other values, so "
            "tuned values cannot be written back into it; choose `wrt` without them"
        )
    return model


def _stub(tensor: onnx.TensorProto) -> onnx.TensorProto:
    stub = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
    _copy_description(stub, tensor)
    stub.data_location = onnx.TensorProto.EXTERNAL
    stub.external_data.add(key="location", value=_IN_JOINT_GRAPH)
    return stub


def _copy_description(target: onnx.TensorProto, source: onnx.TensorProto) -> None:
    for field in ("name", "doc_string"):
        if source.HasField(field):
            setattr(target, field, getattr(source, field))
    target.metadata_props.extend(source.metadata_props)


def _is_stub(tensor: onnx.TensorProto) -> bool:
    return any(entry.value == _IN_JOINT_GRAPH for entry in tensor.external_data)


def _same(tensor: onnx.TensorProto, initializers: Mapping[str, ir.Value]) -> bool:
    """Whether the joint graph has this tensor under its name, so that it need not be carried twice."""
    value = initializers.get(tensor.name)
    if value is None or value.const_value is None:
        return False
    kept = value.const_value
    return list(kept.shape.numpy()) == list(tensor.dims) and kept.dtype == tensor.data_type
