"""From a normalized forward graph to the joint graph: loss, seeds, gradients, and the role each value plays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
import onnx_ir as ir

from ..passes.custom_functions import CustomFunctions
from ..passes.differentiate import PASS, differentiate
from ..passes.registry import Registry
from ..passes.tape import Tape
from .attach import attach
from .load import ModelLike
from .losses import Loss
from .signature import Port, Role, Signature


class JointBuilder:
    """Turns the graph of *model* into a joint graph, one step after the other, and keeps the roles.

    Attributes:
        unused: the members of `wrt` that have no gradient because nothing depends on them.
        forward: the names of the values that were there before the gradients.
    """

    def __init__(self, model: ir.Model, differentiated: Sequence[ir.Value]) -> None:
        self.unused: tuple[str, ...] = ()
        self.forward: frozenset[str] = frozenset()
        self._model = model
        self._graph = model.graph
        self._differentiated = list(differentiated)
        self._inputs: dict[str, tuple[Role, str | None]] = {str(v.name): ("input", None) for v in model.graph.inputs}
        self._outputs: dict[str, tuple[Role, str | None]] = {}
        for value in model.graph.outputs:
            self._outputs[str(value.name)] = ("output", None)

    def attach_loss(self, loss: str | Loss | ModelLike) -> None:
        """Append a loss of the differentiated output; from here on the loss is what is differentiated.

        Raises InputError if the name is unknown, or the loss model does not fit.
        """
        value, labels = attach(self._graph, loss, self._differentiated[0])
        kept = {str(value.name) for value in self._graph.outputs}
        self._outputs = {name: role for name, role in self._outputs.items() if name in kept}
        self._inputs |= {str(label.name): ("label", None) for label in labels}
        self._graph.outputs.append(value)
        self._outputs[str(value.name)] = ("loss", None)
        self._differentiated = [value]

    def differentiate(
        self, wrt: Sequence[ir.Value], optional: Collection[ir.Value], rules: Registry, materialize: bool
    ) -> None:
        """Append the gradients of the differentiated values, and declare parameters, seeds and gradients.

        Raises UnsupportedError as `passes.differentiate` does, and when nothing in *wrt* has a gradient.
        """
        outputs = {str(value.name) for value in self._graph.outputs}
        for value in self._differentiated:
            if value.name not in outputs:
                self._graph.outputs.append(value)
                self._outputs[str(value.name)] = ("output", None)
        self.forward = frozenset(str(value.name) for node in self._graph for value in node.outputs)
        tape = Tape(self._graph)
        seeds = {value: self._seed(value, tape) for value in self._differentiated}
        gradients = differentiate(self._graph, seeds, wrt, rules, optional=optional, tape=tape)
        if not gradients and not materialize:
            differentiate(self._graph, seeds, wrt, rules)  # raises, and says where the paths break
        self.unused = tuple(str(value.name) for value in wrt if value not in gradients)
        for value in wrt:
            if value in gradients:
                self._declare(value, gradients[value], tape)
            elif materialize:
                tape.at(str(value.name), {PASS: "differentiate"})
                self._declare(value, tape.zeros_like(tape.tensor(value)).value, tape)

    def inline(self, functions: CustomFunctions) -> None:
        """Replace the calls of the model's own operators and of their VJPs by what they are made of."""
        functions.inline(self._model)
        nodes = [node for node in self._graph if node.metadata_props.get(PASS) != "differentiate"]
        self.forward |= {str(value.name) for node in nodes for value in node.outputs}

    def signature(self) -> Signature:
        """The signature of the graph as it is now, in mode "grad"."""
        graph = self._graph
        return Signature(
            "grad",
            tuple(
                port_of(value, *self._inputs[str(value.name)], optional=value.is_initializer())
                for value in graph.inputs
            ),
            tuple(port_of(value, *self._outputs[str(value.name)]) for value in graph.outputs),
        )

    def _seed(self, output: ir.Value, tape: Tape) -> ir.Value:
        """A graph input for the cotangent of *output*; 1 by default where it has one element."""
        name = tape.fresh_name(f"{output.name}.grad_output")
        seed = ir.Value(name=name, type=output.type, shape=output.shape)
        shape = output.shape
        if shape is not None and shape.is_static() and int(np.prod(shape.numpy())) == 1:
            assert output.dtype is not None
            one = np.ones(shape.numpy(), output.dtype.numpy())
            seed.const_value = ir.tensor(one, dtype=output.dtype, name=seed.name)
            self._graph.register_initializer(seed)
        self._graph.inputs.append(seed)
        self._inputs[str(seed.name)] = ("grad_output", str(output.name))
        return seed

    def _declare(self, primal: ir.Value, gradient: ir.Value, tape: Tape) -> None:
        """Make *gradient* the graph output `<primal>.grad`, and the primal an input if it is an initializer."""
        name = tape.fresh_name(f"{primal.name}.grad")
        if gradient.is_graph_output() or not _is_emitted(gradient):
            tape.at(name, {PASS: "differentiate"})
            gradient = tape.Identity(tape.tensor(gradient)).value
        gradient.name = name
        gradient.type, gradient.shape = primal.type, primal.shape
        self._graph.outputs.append(gradient)
        self._outputs[name] = ("gradient", str(primal.name))
        if primal.is_initializer() and not primal.is_graph_input():
            self._graph.inputs.append(primal)
            self._inputs[str(primal.name)] = ("parameter", None)


def _is_emitted(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and PASS in node.metadata_props


def port_of(value: ir.Value, role: Role, of: str | None, *, optional: bool = False) -> Port:
    """*value*, an input or output of a graph, as the signature describes it."""
    shape = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    dtype = "unknown" if value.dtype is None else _dtype_name(value.dtype)
    return Port(str(value.name), role, dtype, shape, of=of, optional=optional)


@cache
def _dtype_name(dtype: ir.DataType) -> str:
    return "str" if dtype == ir.DataType.STRING else np.dtype(dtype.numpy()).name
