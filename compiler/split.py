"""A joint graph as two: the forward model, which gives the residuals out, and the backward model, which takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import onnx_ir as ir

from ..passes.eliminate_common_subexpressions import RECOMPUTE
from ..passes.eliminate_dead_code import EliminateDeadCode
from ..passes.errors import InputError
from ..passes.fresh_names import FreshNames
from ..passes.partition import choose_residuals
from ..passes.schedule import Schedule
from .dims import check_sizes, dims_of_inputs
from .joint import port_of
from .original import ORIGINAL_KEY
from .program import Program
from .signature import Port, Signature

Residuals = str | Sequence[str]
"""How the residuals are chosen: "min", "fast", or by name (see `passes.partition`)."""


class SplitProgram:
    """A compiled pair of models: the pullback may run many times, later, or on another host than the forward part.

    Attributes:
        forward: inputs, labels and parameters in; outputs, loss and residuals out.
        backward: residuals, cotangents, and what it needs of the inputs and parameters in; gradients out.
    """

    def __init__(self, forward: Program, backward: Program) -> None:
        self.forward = forward
        self.backward = backward

    @property
    def residuals(self) -> dict[str, Port]:
        """What the backward model takes from the forward model, by name; inputs that it reads itself are not in it."""
        return {port.name: port for port in self.backward.signature.inputs_of("residual")}

    def save(self, forward: str | os.PathLike[str], backward: str | os.PathLike[str]) -> None:
        """Write the two models, each whole or not at all, the backward one first."""
        if Path(forward).resolve() == Path(backward).resolve():
            raise InputError(f"The forward and the backward model are two files, not both {os.fspath(forward)}")
        self.backward.save(backward)
        self.forward.save(forward)

    @classmethod
    def load(cls, forward: str | os.PathLike[str], backward: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises InputError if the two don't belong together."""
        pair = cls(Program.load(forward), Program.load(backward))
        given = {port.name: port for port in (*pair.forward.signature.outputs, *pair.forward.signature.inputs)}
        for port in pair.backward.signature.inputs_of("residual", "input", "label", "parameter"):
            other = given.get(port.name)
            if other is None or (other.dtype, other.shape) != (port.dtype, port.shape):
                raise InputError(
                    f"{os.fspath(backward)} takes {port.name!r}, which {os.fspath(forward)} does not give in the same "
                    "type; they are not of one compilation"
                )
        return pair

    def joint(self) -> Program:
        """Both as one joint graph. What both compute is computed twice in it too."""
        return _join(self.forward, self.backward)


def split(program: Program, residuals: Residuals = "min", sizes: Mapping[str, int] | None = None) -> SplitProgram:
    """Cut *program* in two.

    Args:
        residuals: "min" for the fewest bytes without running a product, a convolution, a loop or a random node twice;
            "fast" to run nothing twice; or the names of values to keep.
        sizes: of symbolic dims by name, with which bytes are reckoned.

    Raises InputError for residuals that do not exist or do not suffice, and for a size of a dim that does not exist.
    """
    check_sizes("assume_dims", sizes or {}, dims_of_inputs(program.model.graph))
    program = program.with_mode("grad")
    graph, signature = program.model.graph, program.signature
    inputs = {str(value.name): value for value in graph.inputs}
    outputs = {str(value.name): value for value in graph.outputs}
    chosen = choose_residuals(
        graph,
        [inputs[port.name] for port in signature.inputs_of("grad_output")],
        [inputs[port.name] for port in signature.inputs_of("parameter")],
        [outputs[port.name] for port in signature.outputs_of("gradient")],
        residuals,
        sizes,
    )
    kept = [str(value.name) for value in chosen]
    return SplitProgram(_forward(program, kept), _backward(program, kept))


def _forward(program: Program, residuals: Sequence[str]) -> Program:
    model = program.model.clone()
    graph = model.graph
    values = _values_by_name(graph)
    own = [port for port in program.signature.outputs if port.role != "gradient"]
    given = {port.name for port in (*own, *program.signature.inputs)}
    extra = [values[name] for name in residuals if name not in given]
    graph.outputs[:] = [values[port.name] for port in own] + extra
    ports = [*own, *(port_of(value, "residual", None) for value in extra)]
    return _with_outputs_of(model, program, ports)


def _backward(program: Program, residuals: Sequence[str]) -> Program:
    model = program.model.clone()
    graph = model.graph
    values, names = _values_by_name(graph), FreshNames(graph)
    gradients = list(program.signature.outputs_of("gradient"))
    graph.outputs[:] = [values[port.name] for port in gradients]
    taken = []
    for name in residuals:
        value = values[name]
        if value.is_graph_input():
            continue
        residual = ir.Value(name=name, type=value.type, shape=value.shape)
        value.name = names.fresh(f"{name}.again")
        value.replace_all_uses_with(residual, replace_graph_outputs=False)
        graph.inputs.append(residual)
        taken.append(residual)
    model.metadata_props.pop(ORIGINAL_KEY, None)
    return _with_outputs_of(model, program, gradients, [port_of(value, "residual", None) for value in taken])


def with_outputs(program: Program, outputs: Sequence[Port]) -> Program:
    """*program* with those of its outputs alone, and what they need."""
    model = program.model.clone()
    values = _values_by_name(model.graph)
    model.graph.outputs[:] = [values[port.name] for port in outputs]
    return _with_outputs_of(model, program, outputs)


def _with_outputs_of(
    model: ir.Model, program: Program, outputs: Sequence[Port], residuals: Sequence[Port] = ()
) -> Program:
    """Remove what *outputs* do not need, and write the signature of what is left."""
    EliminateDeadCode()(model)
    graph = model.graph
    read = {str(value.name) for value in graph.inputs if value.uses() or value.is_graph_output()}
    graph.inputs[:] = [value for value in graph.inputs if value.name in read]
    for name in [name for name, value in graph.initializers.items() if not value.uses() and name not in read]:
        del graph.initializers[name]
    Schedule()(model)
    inputs = [port for port in (*program.signature.inputs, *residuals) if port.name in read]
    return Program(model, Signature("grad", tuple(inputs), tuple(outputs)), program.report, program.unused)


def _join(forward: Program, backward: Program) -> Program:
    model, second = forward.model.clone(), backward.model.clone().graph
    graph = model.graph
    values, names = _values_by_name(graph), FreshNames(graph, second)
    run_before = {node.name for node in graph}
    ports = {port.name: port for port in forward.signature.inputs}
    ports |= {port.name: port for port in backward.signature.inputs if port.role != "residual"}
    for value in dict.fromkeys([*second.inputs, *second.initializers.values()]):
        name = str(value.name)
        second.initializers.pop(name, None)
        if name in values:
            value.replace_all_uses_with(values[name])
            continue
        if value in second.inputs:
            second.inputs.remove(value)
            graph.inputs.append(value)
        if value.const_value is not None:
            graph.register_initializer(value)
    gradients, nodes = list(second.outputs), list(second)
    second.outputs.clear()
    second.remove(nodes)
    for node in nodes:
        if node.name in run_before:
            node.metadata_props[RECOMPUTE] = str(node.name)
            node.name = names.fresh(f"{node.name}/recompute")
        for value in node.outputs:
            if value.name in values:
                value.name = names.fresh(f"{value.name}.recompute")
    graph.extend(nodes)
    outputs = [port for port in forward.signature.outputs if port.role != "residual"]
    kept = {port.name for port in outputs}
    graph.outputs[:] = [value for value in graph.outputs if value.name in kept] + gradients
    Schedule()(model)
    signature = Signature("grad", tuple(ports.values()), (*outputs, *backward.signature.outputs))
    return Program(model, signature, forward.report, forward.unused)


def _values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {str(value.name): value for value in values if value.name}
