"""Reading of forward models: a path, a ModelProto or an onnx_ir.Model becomes a checked onnx_ir.Model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ..passes.errors import InputError, InvalidModelError

ModelLike = str | os.PathLike[str] | onnx.ModelProto | ir.Model

_MAX_CHECKED_BYTES = (2 << 30) - 1


@dataclass(frozen=True)
class LoadedModel:
    """A forward model as it came.

    Attributes:
        model: a graph of its own, which passes may change; external data stays memory-mapped.
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
    """
    path: Path | None = None
    if isinstance(source, ir.Model):
        proto, name = ir.to_proto(source), source.graph.name or "the model"
    elif isinstance(source, onnx.ModelProto):
        proto, name = source, source.graph.name or "the model"
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        proto, name = _read(path), os.fspath(path)
    else:
        raise InputError(f"A model is a path, an onnx.ModelProto or an onnx_ir.Model, not {type(source).__name__}")
    folder = None if path is None else path.parent.resolve()
    if not (isinstance(source, ir.Model) and _has_external_data(source)):
        _check(proto, folder, name, path)
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


def _check(proto: onnx.ModelProto, folder: Path | None, name: str, path: Path | None) -> None:
    if not proto.HasField("graph") or not proto.ir_version or not proto.opset_import:
        raise InvalidModelError(f"{name} is not an ONNX model: it has no graph, IR version or opset")
    external = False
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            external = True
            _check_external(tensor, folder, name)
        elif tensor.HasField("raw_data"):
            _check_size(tensor, len(tensor.raw_data), name)
    try:
        if external and path is not None:
            onnx.checker.check_model(os.fspath(path))
        elif not external and proto.ByteSize() <= _MAX_CHECKED_BYTES:
            onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from None
    except Exception as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from error


def _check_external(tensor: onnx.TensorProto, folder: Path | None, name: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"Tensor {tensor.name!r} of {name} keeps its data in {location!r}"
    if folder is None:
        raise InvalidModelError(f"{what}; give the model as a path, so that its folder is known")
    target = (folder / location).resolve()
    if not location or not target.is_relative_to(folder) or Path(location).is_absolute():
        raise InvalidModelError(f"{what}, which is outside the model's folder; refusing to read it")
    if not target.is_file():
        raise InvalidModelError(f"{what}, but there is no such file beside the model")
    try:
        offset, length = int(entries.get("offset", 0)), entries.get("length")
        available = target.stat().st_size - offset
        size = available if length is None else int(length)
    except ValueError:
        raise InvalidModelError(f"{what} at an offset or with a length that is no number") from None
    if offset < 0 or size > available:
        raise InvalidModelError(f"{what}, but that file is too short ({target.stat().st_size} bytes)")
    if length is not None:
        _check_size(tensor, size, name)


def _check_size(tensor: onnx.TensorProto, size: int, name: str) -> None:
    """Hold the bytes that are there against the ones that the tensor's dims declare."""
    try:
        dtype = ir.DataType(tensor.data_type)
        count = 1
        for dim in tensor.dims:
            count *= dim
        expected = (count * dtype.bitwidth + 7) // 8
    except (TypeError, ValueError):
        return
    if size != expected:
        raise InvalidModelError(
            f"Tensor {tensor.name!r} of {name} declares {list(tensor.dims)} elements of {dtype}, "
            f"{expected} bytes, but has {size}"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _deserialize(proto: onnx.ModelProto, folder: Path | None, name: str) -> ir.Model:
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise InvalidModelError(f"{name} is not a valid ONNX model: {_first_lines(str(error))}") from error
    if folder is not None:
        ir.external_data.set_base_dir(model.graph, folder)
    return model


def _has_external_data(model: ir.Model) -> bool:
    return any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values())


def _first_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " ".join(lines[:count])
