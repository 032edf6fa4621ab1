"""A forward model under transformation: normalized, extended by a derivative, and made a plain model again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnx_ir as ir

from ...passes.choose_residuals import ChooseResiduals
from ...passes.custom_functions import CustomFunctions
from ...passes.differentiate import PASS, differentiate
from ...passes.errors import InputError, UnsupportedError
from ...passes.lower_correlations import LowerCorrelations
from ...passes.lower_opset import LowerOpset
from ...passes.lower_scatter import LowerScatter
from ...passes.pushforward import pushforward
from ...passes.registry import Registry
from ...passes.rules import BUILTIN_RULES
from ...passes.scan_over import scan_over
from ...passes.schedule import Schedule
from ...passes.tape import Tape
from ..attach import attach
from ..load import ModelLike, load_model
from ..losses import Loss
from ..normalize import normalize
from ..optimize import optimize
from ..original import ORIGINAL_KEY
from ..parameters import as_names, select_outputs, select_prediction, select_wrt
from ..pipeline import Pipeline
from ..save import save_model
from ..signature import SIGNATURE_KEY

AnyModel = TypeVar("AnyModel", str, os.PathLike[str], onnx.ModelProto, ir.Model)


@dataclass(frozen=True)
class Options:
    """What all transformations take.

    Attributes:
        wrt: what to differentiate with respect to: "inputs" (the float graph inputs), "parameters" (the float
            initializers that act as weights), or names and glob patterns.
        outputs: the outputs to differentiate, by name; all float outputs if None.
        loss: a loss that is attached to the output first (see `compile`); its labels become graph inputs.
        free_dims: sizes for symbolic dims, which fixes them.
        opset: of the result; the lowest that can express it if None.
        rules: the VJP rules.
        to: a path to write the result to, which is then returned instead of it.
    """

    wrt: str | Sequence[str] = "inputs"
    outputs: str | Sequence[str] | None = None
    loss: str | Loss | ModelLike | None = None
    free_dims: Mapping[str, int] | None = None
    opset: int | None = None
    rules: Registry = field(default=BUILTIN_RULES)
    to: str | os.PathLike[str] | None = None


class Derivation:
    """The graph of a model, normalized, with the values that *options* name.

    Attributes:
        graph: to append to.
        wrt: the primals.
        outputs: the values to differentiate; the loss, if there is one.
        predictions: those that the loss was attached to; else `outputs`.
    """

    def __init__(self, model: ModelLike, options: Options) -> None:
        self._source, self._options = model, options
        loaded = load_model(model).model
        self._functions = CustomFunctions(loaded)
        self._rules = self._functions.rules(options.rules)
        for key in (SIGNATURE_KEY, ORIGINAL_KEY):
            loaded.metadata_props.pop(key, None)
        self._pipeline = Pipeline(loaded)
        self._tape: Tape | None = None
        self.graph = loaded.graph
        self._model = loaded
        names = [*as_names(options.wrt), *as_names(options.outputs)]
        parameters = normalize(self._pipeline, self._rules, options.free_dims or {}, keep=names)
        self.wrt, _ = select_wrt(self.graph, options.wrt, parameters)
        self.outputs = self.predictions = select_outputs(self.graph, options.outputs)
        if options.loss is not None:
            self.predictions = [select_prediction(self.outputs, options.outputs)]
            self.outputs = [attach(self.graph, options.loss, self.predictions[0])[0]]
        self.graph.outputs.extend(value for value in self.outputs if not value.is_graph_output())
        self.forward = frozenset(str(value.name) for node in self.graph for value in node.outputs)

    @property
    def tape(self) -> Tape:
        """A tape that knows of all names that the graph has by now."""
        if self._tape is None:
            self._tape = Tape(self.graph)
        self._tape.at("onnxgrad", {})
        return self._tape

    def scalar(self, what: str) -> ir.Value:
        """The one output that *what* differentiates, which has one element. Raises InputError if it has not."""
        if len(self.outputs) > 1:
            names = ", ".join(repr(str(value.name)) for value in self.outputs)
            raise InputError(f"{what} differentiates one output; choose one of {names} by `outputs`, or give a `loss`")
        (value,) = self.outputs
        if value.shape is None or not value.shape.is_static() or int(np.prod(value.shape.numpy())) != 1:
            raise InputError(
                f"{what} needs an output of one element, but {value.name!r} is {value.dtype}{value.shape}; "
                "give a `loss`, or take vjp, which has a cotangent"
            )
        return value

    def pull_back(
        self, cotangents: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value] | None = None, *, zeros: bool = False
    ) -> dict[ir.Value, ir.Value]:
        """Append the vector-Jacobian product: for each of *wrt* its cotangent; see `differentiate`.

        Args:
            zeros: give zeros for those that nothing depends on, as long as something does on another.
        """
        wrt = self.wrt if wrt is None else wrt
        named = self._options.wrt not in ("inputs", "parameters")
        optional = [] if named and not zeros else list(wrt)
        result = differentiate(self.graph, cotangents, wrt, self._rules, optional=optional)
        if not result:
            differentiate(self.graph, cotangents, wrt, self._rules)  # raises, and says where the paths break
        self._inline()
        self._tape = None
        if zeros:
            return {value: result[value] if value in result else self.zeros(value) for value in wrt}
        return result

    def pull_back_gradient(
        self,
        gradients: Mapping[ir.Value, ir.Value],
        tangents: Mapping[ir.Value, ir.Value],
        wrt: Sequence[ir.Value] | None = None,
    ) -> dict[ir.Value, ir.Value]:
        """The Hessian times *tangents*, from the *gradients*: it is symmetric, so a VJP of those is that."""
        arriving: dict[ir.Value, list[ir.Value]] = {}
        for primal, gradient in gradients.items():
            arriving.setdefault(gradient, []).append(tangents[primal])
        seeds = {gradient: self._sum(each) for gradient, each in arriving.items()}
        return self.pull_back(seeds, wrt, zeros=True)

    def push_forward(
        self, tangents: Mapping[ir.Value, ir.Value], outputs: Sequence[ir.Value]
    ) -> dict[ir.Value, ir.Value]:
        """Append the Jacobian-vector product: for each of *outputs* its tangent.

        Raises UnsupportedError as `pushforward` does, and if no output depends on a primal.
        """
        pushed = pushforward(self.graph, tangents, outputs, self._rules, self._inline)
        self._tape = None
        if not pushed:
            names = ", ".join(repr(str(value.name)) for value in tangents)
            raise UnsupportedError(f"No differentiated output depends smoothly on {names}; nothing has a tangent")
        return {value: pushed[value] if value in pushed else self.zeros(value) for value in outputs}

    def scan_over(self, stacks: Mapping[ir.Value, ir.Value], results: Sequence[ir.Value]) -> list[ir.Value]:
        """Compute *results* for each slice of the *stacks*; see `passes.scan_over`."""
        stacked = scan_over(self.graph, stacks, results)
        self._tape = None
        return stacked

    def _inline(self) -> None:
        """Replace the calls of the model's own functions, and of their VJPs, by what they are made of."""
        if self._functions:
            self._functions.inline(self._model)

    def zeros(self, value: ir.Value) -> ir.Value:
        return self._full_like(value, 0)

    def ones(self, value: ir.Value) -> ir.Value:
        return self._full_like(value, 1)

    def _full_like(self, value: ir.Value, fill: int) -> ir.Value:
        op = self.tape
        return op.full_like(op.tensor(value), fill).value

    def input_like(self, value: ir.Value, suffix: str) -> ir.Value:
        """A new graph input of the type of *value*, named `<value>.<suffix>`."""
        added = self.placeholder(value, suffix)
        self.graph.inputs.append(added)
        return added

    def placeholder(self, value: ir.Value, suffix: str) -> ir.Value:
        """As `input_like`, but no input of the graph yet."""
        return ir.Value(name=self.tape.fresh_name(f"{value.name}.{suffix}"), type=value.type, shape=value.shape)

    def give(self, value: ir.Value, name: str, like: ir.Value | None = None) -> None:
        """Make *value* a graph output of the *name*, with the type and shape of *like*."""
        op = self.tape
        name = op.fresh_name(name)
        emitted = value.producer() is not None and str(value.name) not in self.forward
        if value.is_graph_output() or not emitted:
            op.at(name, {PASS: "differentiate"})
            value = op.Identity(op.tensor(value)).value
        value.name = name
        if like is not None:
            value.type, value.shape = like.type, like.shape
        self.graph.outputs.append(value)

    def finish(self) -> ModelLike:
        """The model, simplified, of the kind that was given; or the path it was written to."""
        graph, options = self.graph, self._options
        for value in self.wrt:
            # A weight is an input with a default then, so that the derivative can be taken elsewhere too.
            if value.is_initializer() and not value.is_graph_input():
                graph.inputs.append(value)
        protected = [str(value.name) for value in self.wrt]
        finish(self._pipeline, protected, self.forward, options.opset, self._rules)
        return written(self._model, self._source, options.to)

    def _sum(self, values: Sequence[ir.Value]) -> ir.Value:
        op = self.tape
        return values[0] if len(values) == 1 else op.Sum(*map(op.tensor, values)).value


def finish(
    pipeline: Pipeline, protected: Collection[str], forward: Collection[str], opset: int | None, rules: Registry
) -> None:
    """Simplify the graph, and bring it to the *opset*, or the lowest that can express it.

    Args:
        protected: names of values that stay, and of initializers that are no constants.
        forward: names of the values that were there before the derivative.
        rules: the VJP rules, which choose the forms of gradients.
    """
    optimize(pipeline, protected)
    pipeline.run(
        [
            ChooseResiduals(forward),
            LowerScatter(),
            LowerOpset(opset),
            LowerCorrelations(rules, protected),
            Schedule(),
        ]
    )


def written(model: ir.Model, source: ModelLike, to: str | os.PathLike[str] | None) -> ModelLike:
    """*model* as the kind that *source* is, or written to the path *to*, which is given then."""
    if to is not None:
        save_model(model, Path(to))
        return to
    return model if isinstance(source, ir.Model) else ir.to_proto(model)
