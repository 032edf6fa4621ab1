"""An optimizer's step on named parameters as a model that any runtime runs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..passes.aliasing import may_alias
from ..passes.contrib.expansion import TRAINING
from ..passes.tape import CANONICAL_OPSET, Tape, Tensor
from .transforms.expand import expand

ADAMW = {"alpha": 0.9, "beta": 0.999, "epsilon": 1e-6}
"""The decay rates and the epsilon of onnxruntime-training's AdamW, whose weight decay is 0."""

Parameters = Mapping[str, tuple[ir.DataType, tuple[int, ...]]]
"""Element types and shapes by name."""


def adamw_model(parameters: Parameters) -> ir.Model:
    """One step of AdamW without weight decay: epsilon is added before the bias of the means is corrected.

    Inputs: `learning_rate` float32[1], `step` int64[1] (1 in the first step), and for each parameter p: `p`, `p.grad`,
    `p.exp_avg` and `p.exp_avg_sq` of its type. Outputs: `p.next`, `p.exp_avg.next` and `p.exp_avg_sq.next`, each of
    which may be written over the input that it replaces.
    """
    tape = _tape()
    rate, step = tape.argument("learning_rate", ir.DataType.FLOAT, [1]), tape.argument("step", ir.DataType.INT64, [1])
    for name, (dtype, shape) in parameters.items():
        given = [tape.argument(f"{name}{suffix}", dtype, shape) for suffix in ("", ".grad", ".exp_avg", ".exp_avg_sq")]
        states = (given[0], *given[2:])
        tape.at(name, {})
        _give(states, tape.emit_many("Adam", rate, step, *given, outputs=3, domain=TRAINING, **ADAMW))
    return _finished(tape)


def sgd_model(parameters: Parameters) -> ir.Model:
    """One step of gradient descent: as `adamw_model`, without a step and states."""
    tape = _tape()
    rate = tape.argument("learning_rate", ir.DataType.FLOAT, [1])
    for name, (dtype, shape) in parameters.items():
        parameter, gradient = tape.argument(name, dtype, shape), tape.argument(f"{name}.grad", dtype, shape)
        tape.at(name, {})
        _give([parameter], [parameter - rate.reshape([]).cast(dtype) * gradient])
    return _finished(tape)


def updates_in_place(model: ir.Model) -> bool:
    """Whether each output `<name>.next` may be written over the input `<name>`, and there is no other output."""
    inputs = {f"{value.name}.next": value for value in model.graph.inputs}
    return all(v.name in inputs and may_alias(model.graph, inputs[v.name], v) for v in model.graph.outputs)


def _tape() -> Tape:
    opsets = {"": CANONICAL_OPSET, TRAINING: 1}
    return Tape(ir.Graph([], [], nodes=[], opset_imports=opsets, name="update"))


def _give(old: list[Tensor] | tuple[Tensor, ...], new: list[Tensor] | tuple[Tensor, ...]) -> None:
    for before, after in zip(old, new, strict=True):
        after.value.name = f"{before.value.name}.next"
        after.value.type, after.value.shape = before.value.type, before.value.shape
        after.op.graph.outputs.append(after.value)


def _finished(tape: Tape) -> ir.Model:
    model = expand(ir.Model(tape.graph, ir_version=10))
    assert isinstance(model, ir.Model)
    return model
