"""A model differentiated by onnxgrad, its joint graph run by ONNX Runtime, and held against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

import onnxgrad

from .oracles import Arrays, Feeds, Oracle, by_reference, input_names, new_session
from .points import Move, moves
from .slopes import KinkError, Objective, compare

CANCELLED = 1e-2
"""What float32 may lose where terms cancel, relative to the gradient's norm."""

SATURATED = 1e-5
"""What it may lose in an element where 1 - y² is next to nothing, relative to the largest input."""


class Differentiation:
    """A model and its joint graph.

    Attributes:
        wrt: the names of inputs and weights that are differentiated with respect to.
        outputs: the names of the differentiated outputs; all that are floats if None.
        joint: the joint graph.
        unused: the members of *wrt* on which, by onnxgrad's account, no output depends.
        gradients: the names of the gradients, by those of the primals.
        seeds: the names and dtypes of the seeds, by the names of the outputs.
    """

    def __init__(self, model: onnx.ModelProto, wrt: Sequence[str], outputs: Sequence[str] | None = None) -> None:
        program = onnxgrad.compile(model, wrt=wrt, outputs=outputs, materialize_grads=True)
        self.model, self.wrt = model, wrt
        self.joint: onnx.ModelProto = ir.to_proto(program.model)
        self.unused = frozenset(program.unused)
        self.gradients = {str(port.of): port.name for port in program.signature.outputs_of("gradient")}
        self.seeds = {
            str(port.of): (port.name, np.dtype(port.dtype)) for port in program.signature.inputs_of("grad_output")
        }

    @cached_property
    def session(self) -> ort.InferenceSession:
        return new_session(self.joint)

    def run(self, feeds: Feeds, seeds: Arrays) -> Arrays:
        """Every output by name; *seeds* are given by the names of the outputs."""
        known = input_names(self.session)
        fed = {name: value for name, value in {**feeds, **self.cast(seeds)}.items() if name in known}
        return dict(zip([value.name for value in self.session.get_outputs()], self.session.run(None, fed), strict=True))

    def cast(self, seeds: Arrays) -> Arrays:
        """The seeds as the joint graph takes them."""
        return {name: seeds[output].astype(dtype) for output, (name, dtype) in self.seeds.items()}

    def gradients_at(self, feeds: Feeds, seeds: Arrays) -> Arrays:
        """The gradients by the names of the primals, whose shapes and dtypes they must have."""
        outputs = self.run(feeds, seeds)
        gradients = {name: outputs[self.gradients[name]] for name in self.wrt}
        for name, gradient in gradients.items():
            primal = feeds[name]
            assert (gradient.shape, gradient.dtype) == (primal.shape, primal.dtype), (
                f"the gradient of {name} is {gradient.dtype}{gradient.shape}, not {primal.dtype}{primal.shape}"
            )
        return gradients

    def random_seeds(self, oracle: Oracle, feeds: Feeds) -> Arrays:
        """A random cotangent for each differentiated output, 0 where that is not finite; the same at each call.

        The numbers are those of float16, so that every precision has the same ones.
        """
        random = np.random.default_rng(2)
        return {
            name: np.where(np.isfinite(output), random.standard_normal(output.shape), 0).astype(np.float16)
            for name, output in oracle.evaluate(feeds).items()
            if name in self.seeds
        }

    def verify(
        self, oracle: Oracle, feeds: Feeds, gradients_at: Callable[[Feeds, Arrays], Arrays] | None = None
    ) -> Feeds:
        """Hold the gradients against finite differences of *oracle*, at *feeds* or at a smooth point near it.

        Gives that point. Raises KinkError if there is none, AssertionError if a gradient is wrong.
        """
        kinks: list[KinkError] = []
        for move in moves(np.random.default_rng(0)):
            point = {**feeds, **{name: _moved(feeds[name], move) for name in self.wrt}}
            try:
                self._verify_at(oracle, point, gradients_at or self.gradients_at)
                return point
            except KinkError as kink:
                kinks.append(kink)
        raise KinkError(f"there is no smooth point nearby: {kinks[0]}; {kinks[-1]}")

    def _verify_at(self, oracle: Oracle, feeds: Feeds, gradients_at: Callable[[Feeds, Arrays], Arrays]) -> None:
        seeds = self.random_seeds(oracle, feeds)
        gradients = gradients_at(feeds, seeds)
        finite = all(np.all(np.isfinite(gradient)) for gradient in gradients.values())
        if not finite and not all(np.all(np.isfinite(output)) for output in oracle.evaluate(feeds).values()):
            raise KinkError("it is outside of the domain, or at its edge")
        objective = Objective(oracle, seeds)
        try:
            compare(objective, feeds, gradients)
        except KinkError:
            raise
        except AssertionError:
            if not finite or not oracle.exact:
                raise
            # Terms that cancel leave float32 few digits: then the same graph is exact in float64.
            exact = by_reference(self.joint).evaluate({**feeds, **self.cast(seeds)})
            compare(objective, feeds, {name: exact[self.gradients[name]] for name in self.wrt})
            largest = max(1.0, *(float(np.max(np.abs(feeds[name]), initial=0)) for name in self.wrt))
            for name, gradient in gradients.items():
                reference = exact[self.gradients[name]]
                error = np.linalg.norm(gradient - reference)
                bound = CANCELLED * np.linalg.norm(reference) + SATURATED * largest * np.sqrt(reference.size)
                assert error <= bound, f"the gradient of {name} is inexact: {error:.3g} > {bound:.3g}"

    def verify_linear(self, oracle: Oracle, feeds: Feeds) -> None:
        """Hold the gradients against the outputs of the same run, for a model that is linear in *wrt*.

        What is drawn at random is drawn once then: <gradients, wrt> = <seeds, outputs> (Euler's theorem).
        """
        seeds = self.random_seeds(oracle, feeds)
        outputs = self.run(feeds, seeds)
        forward = sum(float(np.sum(seed * outputs[name].astype(np.float64))) for name, seed in seeds.items())
        backward = sum(
            float(np.sum(outputs[self.gradients[name]].astype(np.float64) * feeds[name])) for name in self.wrt
        )
        assert np.isclose(forward, backward, 1e-5), (
            f"<gradients, wrt> = {backward:.6g}, <seeds, outputs> = {forward:.6g}"
        )
        assert forward != 0


def _moved(x: np.ndarray, move: Move) -> np.ndarray:
    return np.asarray(move(x.astype(np.float64))).astype(x.dtype)
