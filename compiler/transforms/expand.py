"""The training operators of the ONNX standard, written in ordinary ones."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...passes.custom_functions import CustomFunctions
from ...passes.differentiate import PASS
from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ..load import ModelLike, load_model
from ..normalize import normalize
from ..pipeline import Pipeline
from .derivation import finish, written


def expand(
    model: ModelLike,
    *,
    free_dims: Mapping[str, int] | None = None,
    opset: int | None = None,
    rules: Registry = BUILTIN_RULES,
    to: str | os.PathLike[str] | None = None,
) -> ModelLike:
    """*model* in standard operators that every runtime has: its Gradient, Adam, Adagrad and Momentum nodes
    (ai.onnx.preview.training) become what computes them, ONNX Runtime's own operators and functions too.

    `compile` and the transformations do so on their own. See `Options` for the arguments.

    Raises InvalidModelError for a Gradient or an optimizer that is not valid, and UnsupportedError where the path of a
    Gradient cannot be differentiated.
    """
    loaded = load_model(model).model
    graph = loaded.graph
    defaults = [value for value in graph.inputs if value.is_initializer()]
    functions = CustomFunctions(loaded)
    pipeline = Pipeline(loaded)
    protected = [str(value.name) for value in defaults]
    rules = functions.rules(rules)
    parameters = normalize(pipeline, rules, free_dims or {}, keep=protected)
    if functions:
        functions.inline(loaded)
    graph.inputs.extend(value for value in defaults if value not in graph.inputs and loaded.ir_version >= 4)
    forward = {str(v.name) for node in graph if node.metadata_props.get(PASS) != "differentiate" for v in node.outputs}
    finish(pipeline, [*protected, *(str(value.name) for value in parameters)], forward, opset, rules)
    return written(loaded, model, to)
