"""The errors a user can meet. Each message names the node or value, says what was asked, and what to do."""

from __future__ import annotations

import re

import onnx_ir as ir

_TORCH = re.compile(r"""["/\\]torch[/\\]""")


class Error(Exception):
    """Base class of every error that onnxgrad raises on purpose."""


class InvalidModelError(Error):
    """The model is not valid ONNX, cannot be read, or is damaged."""


class UnsupportedError(Error):
    """Something that is asked for, or that lies on the differentiated path, is not supported."""


class InputError(Error):
    """An argument or a fed array has a name, dtype, shape or value that does not fit."""


class AnomalyError(Error):
    """A loss or gradient is NaN or infinite; the message names the node that made it so."""


class GradcheckError(Error):
    """A gradient disagrees with finite differences."""


def describe(node: ir.Node) -> str:
    """Name *node* for a message: its operator, its name, and the source line the exporter left."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    outputs = [value.name for value in node.outputs if value.name]
    name = node.name or (f"the node that computes {outputs[0]}" if outputs else "an unnamed node")
    source = source_line(node)
    return f"{operator} node {name!r}" + (f" ({source})" if source else "")


def source_line(node: ir.Node) -> str | None:
    """The innermost line outside PyTorch of the stack trace that its exporter keeps in a node's metadata, if any."""
    trace = node.metadata_props.get("pkg.torch.onnx.stack_trace", "")
    files = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [file for file in files if not _TORCH.search(file)]
    candidates = own or files
    return candidates[-1] if candidates else None
