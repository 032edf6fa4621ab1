"""Reading of forward models: a path, a ModelProto or an onnx_ir.Model becomes a checked onnx_ir.Model."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ..passes.errors import InputError, InvalidModelError, UnsupportedError

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

_MAX_CHECKED_BYTES = (2 << 30) - 1
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_WITH_BYTES = set(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING}


@dataclass(frozen=True)
class LoadedModel:
    """A forward model as it came.

    Attributes:
        model: a graph of its own, which passes may change; external data of its initializers stays memory-mapped.
        proto: the model as protobuf, unchanged, to write the tuned forward model back into.
        folder: where its external data lies; None if it did not come from a file.
    """

    model: ir.Model
    proto: onnx.ModelProto
    folder: Path | None


def load_model(source: ModelLike) -> LoadedModel:
    """Read and check a model.

    Raises:
        InputError: the file does not exist or cannot be read.
        InvalidModelError: it is not ONNX, it is truncated, the checker rejects it, or its external data is
            missing, too short, or outside the model's folder.
        UnsupportedError: it is of an opset that the installed onnx does not know.
    """
    folder = None
    if isinstance(source, ir.Model):
        proto, name, folder = ir.to_proto(source), source.graph.name or "the model", _folder_of(source)
    elif isinstance(source, onnx.ModelProto):
        proto, name = source, source.graph.name or "the model"
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        proto, name, folder = _read(path), os.fspath(path), path.parent.resolve()
    else:
        raise InputError(f"A model is a path, an onnx.ModelProto or an onnx_ir.Model, not {type(source).__name__}")
    _check(proto, folder, name)
    return LoadedModel(_deserialize(proto, folder, name), proto, folder)


def _read(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no file {os.fspath(path)}") from None
    except OSError as error:
        raise InputError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise InvalidModelError(
            f"{os.fspath(path)} is not an ONNX model, or it is damaged (truncated?): it is no readable protobuf"
        ) from None
    return proto


def _check(proto: onnx.ModelProto, folder: Path | None, name: str) -> None:
    if not proto.HasField("graph") or not proto.ir_version or not proto.opset_import:
        raise InvalidModelError(f"{name} is not an ONNX model: it has no graph, IR version or opset")
    newest = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise UnsupportedError(
                f"The model is of opset {entry.version}, but onnx {onnx.__version__} knows operators up to opset "
                f"{newest}; export it in an older one"
            )
    texts = [proto.producer_name, proto.producer_version, proto.domain, proto.doc_string]
    texts += [proto.graph.name, proto.graph.doc_string]
    if not all(isinstance(text, str) for text in texts):  # protobuf gives damaged text out as bytes
        raise InvalidModelError(f"{name} is not a valid ONNX model: its descriptions are not UTF-8; it may be damaged")
    for tensor in tensors_of(proto):
        if tensor.data_type not in onnx.TensorProto.DataType.values():
            raise InvalidModelError(f"Tensor {tensor.name!r} of {name} has the unknown element type {tensor.data_type}")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, folder, name)
        else:
            _check_size(tensor, name)
    try:
        if (checked := _for_the_checker(proto)).ByteSize() <= _MAX_CHECKED_BYTES:
            onnx.checker.check_model(checked)
    except onnx.checker.ValidationError as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from None
    except Exception as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from error


def _for_the_checker(proto: onnx.ModelProto) -> onnx.ModelProto:
    """*proto* without what was checked before, and with what ONNX asks for, but no runtime does.

    Weights are empty, since the checker would copy all of them twice, and external ones are there; inputs and outputs
    of unknown rank have a shape, without which exporters leave them.
    """
    copy = without_initializers(proto)
    for tensor in proto.graph.initializer:
        if tensor.HasField("raw_data") and not any(len(getattr(tensor, field)) for field in _TYPED_FIELDS):
            copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=[0], raw_data=b"")
        else:
            copy.graph.initializer.append(tensor)
    for tensor in tensors_of(copy):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0], raw_data=b""))
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    return copy


def without_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of *proto* without the initializers of its graph."""
    copy = onnx.ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _set(copy, field.name, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _set(copy.graph, field.name, value)
    return copy


def _set(target: onnx.ModelProto | onnx.GraphProto, name: str, value: object) -> None:
    own = getattr(target, name)
    if hasattr(own, "extend"):
        own.extend(value)
    elif hasattr(own, "CopyFrom"):
        own.CopyFrom(value)
    else:
        setattr(target, name, value)


def _check_external(tensor: onnx.TensorProto, folder: Path | None, name: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"Tensor {tensor.name!r} of {name} keeps its data in {location!r}"
    if folder is None:
        raise InvalidModelError(f"{what}; give the model as a path, so that its folder is known")
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder) or Path(location).is_absolute():
        raise InvalidModelError(
            f"{what}, which is outside the model's folder, so it is not read; put it beside the model"
        )
    if not target.is_file():
        raise InvalidModelError(f"{what}, but there is no such file beside the model")
    try:
        offset = int(entries.get("offset", 0))
        size = int(entries.get("length", _declared_bytes(tensor)))
    except ValueError:
        raise InvalidModelError(f"{what} at an offset or with a length that is no number") from None
    if offset < 0 or size < 0 or offset + size > target.stat().st_size:
        raise InvalidModelError(f"{what}, but that file is too short ({target.stat().st_size} bytes)")
    if size != _declared_bytes(tensor):
        raise _wrong_size(tensor, name, f"{size} bytes")


def _check_size(tensor: onnx.TensorProto, name: str) -> None:
    """Hold the data that is there against what the tensor's dims declare, before anything allocates that much."""
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != _declared_bytes(tensor):
            raise _wrong_size(tensor, name, f"{len(tensor.raw_data)} bytes")
        return
    count = math.prod(tensor.dims)
    if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
        count *= 2
    elif tensor.data_type != onnx.TensorProto.STRING:
        count = min(count, _declared_bytes(tensor))  # several elements of less than a byte share one number
    stored = max(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
    if stored != count:
        raise _wrong_size(tensor, name, f"{stored} numbers")


def _declared_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type not in _WITH_BYTES:
        return 0
    return int(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth + 7) // 8


def _wrong_size(tensor: onnx.TensorProto, name: str, found: str) -> InvalidModelError:
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    return InvalidModelError(
        f"Tensor {tensor.name!r} of {name} declares {list(tensor.dims)} of {kind}, but has {found}"
    )


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of *model*: in its graph, in inner graphs and in functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (tensor for tensor in (sparse.values, sparse.indices) if tensor.dims)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(inner)


def _deserialize(proto: onnx.ModelProto, folder: Path | None, name: str) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from error
    for graph in (*model.graphs(), *(function.graph for function in model.functions.values())):
        if folder is not None:
            ir.external_data.set_base_dir(graph, folder)
            _read_external(graph, initializers=graph is not model.graph)
        _own_names(graph)
    return model


def _read_external(graph: ir.Graph, *, initializers: bool) -> None:
    """Read the external data of the nodes' attributes, and of the *initializers* if told so.

    These are written again as they are, wherever the graph goes; those of the main graph are weights, which stay where
    they lie.
    """
    read = ir.external_data.convert_tensors_from_external
    for value in graph.initializers.values() if initializers else ():
        if isinstance(value.const_value, ir.ExternalTensor):
            (value.const_value,) = read([value.const_value])
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                (tensor,) = read([attribute.value])
                node.attributes[name] = ir.AttrTensor(name, tensor, doc_string=attribute.doc_string)


def _own_names(graph: ir.Graph) -> None:
    """Let the tensors of *graph* have names of their own, since a pass that renames one would rename the caller's."""
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.TensorProtoTensor):
            value.const_value = _view(value.const_value)
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.TensorProtoTensor):
                node.attributes[name] = ir.AttrTensor(name, _view(attribute.value), doc_string=attribute.doc_string)


def _view(tensor: ir.TensorProtoTensor) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: tensor,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _folder_of(model: ir.Model) -> Path | None:
    """The folder of the external data of *model*, None if it has none."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    folders = {Path(tensor.base_dir).resolve() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    if len(folders) > 1:
        raise InputError(f"The model's weights lie in {len(folders)} folders; save it to one file first")
    return folders.pop() if folders else None


def _first_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " ".join(lines[:count])
