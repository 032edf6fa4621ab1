"""Marks in a model file that say how gradients flow, for every later transformation of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from ...passes.errors import InputError
from ...passes.gradient_marks import MarkGradients
from ..load import ModelLike, load_model
from ..parameters import as_names
from ..save import save_model


def mark(
    model: ModelLike,
    *,
    stop_gradient: str | Sequence[str] = (),
    scale_gradient: Mapping[str, float] | None = None,
    straight_through: str | Sequence[str] = (),
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """*model* with marks in its graph, which computes the same, but is differentiated as they say.

    A stop or a scale is an Identity that bears the mark in its metadata, so that it survives in a file and in other
    tools; the arguments are those of `compile`.

    Raises InputError for a name that nothing has, and where there is nothing to mark.
    """
    loaded = load_model(model).model
    marks = MarkGradients(as_names(stop_gradient), scale_gradient, as_names(straight_through))
    if not marks.any:
        raise InputError("There is nothing to mark: give stop_gradient, scale_gradient or straight_through")
    marks.call(loaded)
    if to is not None:
        save_model(loaded, Path(to))
        return to
    return loaded if isinstance(model, ir.Model) else ir.to_proto(loaded)
