"""One case of the backend suite: its gradients, the same with symbolic dims, and its second derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from .cases import Case, load_cases
from .differentiation import Differentiation
from .exceptions import DEFINED_IN_FLOAT32, DRAWS, FIXED_INPUTS, RUNTIME_DEVIATES, SAMPLERS
from .oracles import Arrays, Feeds, Oracle, by_runtime, exact_oracles
from .precision import as_precision, in_precision, is_float_array
from .symbolic import with_symbolic_dims


class NotApplicable(Exception):
    """The case has no gradient; the message says why."""


class Check:
    """The checks of one case.

    Making one raises NotApplicable if no float output depends on a float input (and finite differences say so too),
    and what `onnxgrad.compile` raises.
    """

    def __init__(self, case: Case) -> None:
        self.case, self.model = case, case.model
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in case.model.graph.initializer}
        self.feeds: Feeds = {**case.feeds, **weights}
        fixed = _fixed_inputs(case.model)
        wrt = [name for name, value in self.feeds.items() if is_float_array(value) and name not in fixed]
        if not wrt:
            raise NotApplicable("it has no float input")
        if not any(is_float_array(value) for value in case.outputs.values()):
            raise NotApplicable("it has no float output")
        floats = [value for value in (*self.feeds.values(), *case.outputs.values()) if is_float_array(value)]
        if any(value.dtype.name == "bfloat16" for value in floats):
            self._go_over_to_float32()
        self.first = Differentiation(self.model, wrt)
        if self.first.unused == set(wrt):
            self._check_that_nothing_changes()
            raise NotApplicable("its derivative is zero")
        self._settle_precision()

    def gradient(self) -> None:
        """The gradients agree with finite differences of the forward model."""
        self.point  # noqa: B018

    @cached_property
    def point(self) -> Feeds:
        """The feeds at which the gradients were found right."""
        return self._verify(self.first, self.oracle, self.feeds)

    def symbolic(self) -> None:
        """With no size known, the gradients are the same."""
        symbolic = Differentiation(with_symbolic_dims(self.model), self.first.wrt)
        if self.case.name in DRAWS:
            symbolic.verify_linear(self.oracle, self.feeds)
            return
        seeds = self.first.random_seeds(self.oracle, self.feeds)
        expected = self.first.gradients_at(self.feeds, seeds)
        for name, gradient in symbolic.gradients_at(self.feeds, seeds).items():
            tolerance = 1e-2 if gradient.dtype == np.float16 else 1e-5
            bound = tolerance * float(np.max(np.abs(expected[name]), initial=0))
            assert np.allclose(gradient, expected[name], tolerance, bound, equal_nan=True), (
                f"the gradient of {name} is {gradient}, but {expected[name]} with the sizes known"
            )

    def second(self) -> None:
        """The joint graph can be differentiated, and its gradients agree with finite differences of the first ones."""
        seeds = self.first.random_seeds(self.oracle, self.point)
        feeds = {**self.point, **self.first.cast(seeds)}
        gradients = list(self.first.gradients.values())
        second = Differentiation(
            self.first.joint, [*self.first.wrt, *(name for name, _ in self.first.seeds.values())], gradients
        )
        first = self.first.run(self.point, seeds)
        model = _with_weights_as_inputs(self.first.joint)
        oracle = self._exact_oracle(model, feeds, {name: first[name] for name in gradients}) or by_runtime(model)
        self._verify(second, oracle, feeds)

    def _verify(self, differentiation: Differentiation, oracle: Oracle, feeds: Feeds) -> Feeds:
        if self.case.name in DRAWS:
            differentiation.verify_linear(oracle, feeds)
            return feeds
        return differentiation.verify(oracle, feeds)

    @cached_property
    def oracle(self) -> Oracle:
        """The most exact evaluation of the forward model that gives what the suite and the runtime give."""
        model = _with_weights_as_inputs(self._written_out())
        deviates = self.case.name in RUNTIME_DEVIATES
        exact = None if deviates else self._exact_oracle(model, self.feeds, self.case.outputs)
        oracle = exact or by_runtime(model)
        if self.case.name in DRAWS:
            return oracle
        outputs = self.first.run(self.feeds, self.first.random_seeds(oracle, self.feeds))
        assert self._agree(outputs, self.case.outputs) != deviates, "the joint graph's outputs and the suite's"
        if exact is None:
            assert self._agree(outputs, oracle.evaluate(self.feeds)), "the joint graph's outputs are not the model's"
        return oracle

    def _written_out(self) -> onnx.ModelProto:
        """The model that the oracle evaluates: of DEFINED_IN_FLOAT32, the suite's own in simpler operators."""
        expanded = load_cases().get(f"{self.case.kind}/{self.case.name}_expanded")
        if expanded is not None and any(node.op_type in DEFINED_IN_FLOAT32 for node in self.model.graph.node):
            return expanded.model
        return self.model

    def _exact_oracle(self, model: onnx.ModelProto, feeds: Feeds, expected: Mapping[str, Any]) -> Oracle | None:
        """The evaluation in float64, if there is one that gives what is expected."""
        for oracle in exact_oracles(model):
            try:
                if self._agree(oracle.evaluate(feeds), expected):
                    return oracle
            except Exception:  # there are many ways in which the evaluator gives up
                continue
        return None

    def _agree(self, actual: Arrays, expected: Mapping[str, Any]) -> bool:
        """Whether the floats among *expected* are what *actual* has, to what the suite asks and float16 can give."""
        arrays = [value for value in (*self.feeds.values(), *self.case.outputs.values()) if is_float_array(value)]
        tolerance = 1e-3 if {array.dtype.name for array in arrays} <= {"float32", "float64"} else 1e-2
        return all(
            actual[name].shape == array.shape
            and np.allclose(
                actual[name].astype(np.float64), array.astype(np.float64), tolerance, tolerance, equal_nan=True
            )
            for name, array in expected.items()
            if is_float_array(array)
        )

    def _settle_precision(self) -> None:
        """Go over to float32 if the runtime has no kernel for the case's own types."""
        try:
            self.first.session  # noqa: B018
        except NoKernel:
            self._go_over_to_float32()
            self.first = Differentiation(self.model, self.first.wrt)

    def _go_over_to_float32(self) -> None:
        self.model, self.feeds = in_precision(self.model, np.float32), as_precision(self.feeds, np.float32)

    def _check_that_nothing_changes(self) -> None:
        """Where onnxgrad says that the derivative is zero, finite differences say so too."""
        if any(node.op_type in SAMPLERS for node in self.model.graph.node):
            return
        model = _with_weights_as_inputs(self._written_out())
        oracle = self._exact_oracle(model, self.feeds, self.case.outputs)
        assert oracle is not None, "no oracle gives the outputs that the suite expects"
        self.first.verify(oracle, self.feeds, lambda feeds, _: {n: np.zeros(feeds[n].shape) for n in self.first.wrt})


def _with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    copy.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
        if tensor.name not in inputs
    )
    return copy


def _fixed_inputs(model: onnx.ModelProto) -> set[str]:
    """The names of inputs that are nothing but settings."""
    uses: dict[str, list[bool]] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            uses.setdefault(name, []).append((node.op_type, index) in FIXED_INPUTS)
    return {name for name, settings in uses.items() if all(settings)}
