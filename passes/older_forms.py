"""The canonical operators in the forms of older opsets, down to the lowest that is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import onnx_ir as ir


class Form(NamedTuple):
    """The attributes and inputs that a node has in some opset."""

    attributes: Mapping[str, Any]
    inputs: Sequence[ir.Value | None]


def has_older_forms(op_type: str) -> bool:
    """Whether the operator changed since the lowest opset that is written, other than by attributes that it got."""
    return op_type in _CHANGES


def form_at(node: ir.Node, opset: int) -> Form | None:
    """The form of the canonical *node* in *opset*, or None when a change since then cannot be undone."""
    form = Form({name: attribute.value for name, attribute in node.attributes.data.items()}, node.inputs)
    changed, older = _CHANGES.get(node.op_type, (0, None))
    return older(form) if older is not None and opset < changed else form


def _dft_17(form: Form) -> Form | None:
    """The axis, which became an input, is an attribute if it is known."""
    axis = form.inputs[2] if len(form.inputs) > 2 else None
    tensor = None if axis is None or axis.is_graph_input() else ir.convenience.get_const_tensor(axis)
    if axis is not None and tensor is None:
        return None
    number = -2 if tensor is None else int(tensor.numpy().item())
    return Form({**form.attributes, "axis": number}, form.inputs[:2])


def _grid_sample_16(form: Form) -> Form | None:
    """Images of two dimensions could be sampled, in modes by their two-dimensional names."""
    image = form.inputs[0]
    if image is None or image.shape is None or len(image.shape) != 4:
        return None
    mode = form.attributes.get("mode", "linear")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return Form({**form.attributes, "mode": mode}, form.inputs)


def _group_normalization_18(_: Form) -> None:
    """Scale and bias were one for each group, which what is one for each channel need not be."""


_CHANGES: dict[str, tuple[int, Callable[[Form], Form | None]]] = {
    "DFT": (20, _dft_17),
    "GridSample": (20, _grid_sample_16),
    "GroupNormalization": (21, _group_normalization_18),
}
"""By operator, the opset that changed its form, and how that change is undone."""
