"""Writing of models as protobuf, without a copy of their weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

import onnx
import onnx_ir as ir

SMALL = 1 << 12
"""Tensors of fewer bytes are copied."""


def write_protobuf(model: ir.Model, file: BinaryIO) -> None:
    """Write *model* to *file* as one message, whose weights are taken one by one from where they lie.

    protobuf needs all of them three times at once: in the message, encoded, and as bytes. It is up to the writer in
    what order the fields of a message are ("Encoding" in the Protocol Buffers documentation), so the graph comes last
    in the model, and the initializers, the weights among them, last in the graph. External data moves into the file.
    """
    weights = {
        name: tensor
        for name, value in model.graph.initializers.items()
        if (tensor := value.const_value) is not None and tensor.dtype != ir.DataType.STRING
        if isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= SMALL
    }
    proto = ir.to_proto(_without(model, weights))
    initializers = list(proto.graph.initializer)
    proto.graph.ClearField("initializer")
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")

    tensors = []
    for initializer in initializers:
        initializer.ClearField("data_location")
        initializer.ClearField("external_data")
        start, data = initializer.SerializeToString(), weights.get(initializer.name)
        if data is not None:
            start += _field(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, data.nbytes)
        size = len(start) + (0 if data is None else data.nbytes)
        tensors.append((_field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, size) + start, data))
    size = len(graph) + sum(len(start) + (0 if data is None else data.nbytes) for start, data in tensors)

    file.write(proto.SerializeToString())
    file.write(_field(onnx.ModelProto.GRAPH_FIELD_NUMBER, size))
    file.write(graph)
    for start, data in tensors:
        file.write(start)
        if data is not None:
            file.write(data.tobytes())


def _without(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> ir.Model:
    """A view of *model* in which tensors without data stand for *weights*."""
    graph = model.graph
    initializers = []
    for name, value in graph.initializers.items():
        if name in weights:
            stub = ir.Value(name=name, type=value.type, shape=value.shape, doc_string=value.doc_string)
            stub.const_value = _without_data(weights[name], name)
            stub.metadata_props.update(value.metadata_props)
            stub.meta.update(value.meta)
            value = stub
        initializers.append(value)
    view = ir.GraphView(
        graph.inputs,
        graph.outputs,
        nodes=graph,
        initializers=initializers,
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    return ir.Model(
        view,  # type: ignore[arg-type]
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=tuple(model.functions.values()),
        metadata_props=model.metadata_props,
        device_configurations=model.device_configurations,
    )


def _without_data(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        "",
        None,
        None,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _field(number: int, length: int) -> bytes:
    """What comes before the contents of a field that is *length* bytes long."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
