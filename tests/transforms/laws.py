"""Identities that tie the transformations of one model to each other, whatever the model computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxgrad

Arrays = dict[str, np.ndarray]
Feeds = Mapping[str, Any]

TANGENT, SEED = ".tangent", ".grad_output"


class Evaluator:
    """Several models that share inputs, each run by ONNX Runtime on what it takes, with its initializers as defaults.

    Attributes:
        initial: the defaults by name.
        inputs: what may be fed, and its dtype.
    """

    def __init__(self, *models: onnx.ModelProto) -> None:
        self._sessions = [_session(model) for model in models]
        self.initial: Arrays = {}
        for model in models:
            self.initial |= {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        self.inputs: dict[str, np.dtype[Any]] = {}
        for session in self._sessions:
            self.inputs |= _inputs(session)

    def __call__(self, feeds: Feeds) -> Arrays:
        results: Arrays = {}
        for session in self._sessions:
            known = _inputs(session)
            names = [value.name for value in session.get_outputs()]
            fed = {name: value for name, value in feeds.items() if name in known}
            results |= dict(zip(names, session.run(None, fed), strict=True))
        return results

    def directions(self, suffix: str, like: Feeds, seed: int) -> Arrays:
        """A random direction of unit length for each input `<value><suffix>`, shaped as that value in *like*.

        Where the value is not finite it does not move.
        """
        random = np.random.default_rng(seed)
        return {
            name: _direction(random, np.asarray(like[name.removesuffix(suffix)])).astype(dtype)
            for name, dtype in self.inputs.items()
            if name.endswith(suffix)
        }


@dataclass(frozen=True)
class AdjointCheck:
    """|<dy, J v> - <Jᵀ dy, v>| relative to |dy| |J v|, and |J v|."""

    error: float
    size: float


def check_adjoint(
    evaluator: Evaluator, feeds: Feeds, outputs: Arrays, evaluate: Callable[[Feeds], Arrays] | None = None
) -> AdjointCheck:
    """Hold a Jacobian against its transpose, along a random v, and a dy that is in part J v, in part random.

    What is not finite in the outputs gets the cotangent 0, and counts for nothing.

    Args:
        evaluator: of a jvp and a vjp, or of a model that is both, so that what is random is drawn once.
        outputs: what the forward model gives at *feeds*.
        evaluate: what computes instead of the evaluator (in float64, say).
    """
    evaluate = evaluate or evaluator
    seeds = evaluator.directions(SEED, outputs, 1)
    tangents = evaluator.directions(TANGENT, {**evaluator.initial, **feeds}, 2)
    results = evaluate({**feeds, **seeds, **tangents})
    pushed = _tangents(results, seeds)
    length = _norm(pushed)
    for name, seed in seeds.items():
        along = pushed[name] / length if 0 < length < np.inf else 0
        seeds[name] = np.where(seed == 0, 0, seed / 2 + along).astype(seed.dtype)
    results = evaluate({**feeds, **seeds, **tangents})
    pushed = _tangents(results, seeds)
    pulled = {}  # without those that no output depends on
    for name in tangents:
        gradient = results.get(name.removesuffix(TANGENT) + ".grad")
        if gradient is not None:
            pulled[name] = np.where(tangents[name] == 0, 0, gradient.astype(np.float64))
    difference = abs(_product(seeds, pushed) - _product(pulled, tangents))
    return AdjointCheck(difference / max(_norm(seeds) * _norm(pushed), 1e-30), _norm(pushed))


def _tangents(results: Arrays, seeds: Arrays) -> Arrays:
    """Those of the outputs by the names of the *seeds*, 0 where the seed is."""
    tangents = {name: results[name.removesuffix(SEED) + TANGENT].astype(np.float64) for name in seeds}
    return {name: np.where(seeds[name] == 0, 0, tangent) for name, tangent in tangents.items()}


def _product(left: Arrays, right: Arrays) -> float:
    return float(sum(np.sum(array.astype(np.float64) * right[name]) for name, array in left.items()))


def _norm(arrays: Arrays) -> float:
    return float(np.sqrt(_product(arrays, {name: array.astype(np.float64) for name, array in arrays.items()})))


def asymmetry(evaluator: Evaluator, feeds: Feeds) -> float:
    """|<u, H v> - <v, H u>| relative to |u| |H v| + |v| |H u|, for a model that `hvp` gave, at random u and v."""
    primals = {**evaluator.initial, **feeds}
    u, v = evaluator.directions(TANGENT, primals, 3), evaluator.directions(TANGENT, primals, 4)
    of_u, of_v = (_products(evaluator({**feeds, **each}), each) for each in (u, v))
    scale = _norm(u) * _norm(of_v) + _norm(v) * _norm(of_u)
    return abs(_product(u, of_v) - _product(v, of_u)) / max(scale, 1e-30)


def _products(results: Arrays, tangents: Arrays) -> Arrays:
    """The Hessian's products by the names of the *tangents*."""
    return {name: results[name.removesuffix(TANGENT) + ".hvp"].astype(np.float64) for name in tangents}


def without_optimizations() -> ort.SessionOptions:
    """What the runtime fuses depends on what is an output, and changes the rounding; without that, each node counts."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return options


def worst_difference(actual: Arrays, expected: Arrays) -> float:
    """The largest error of an array, relative to its norm.

    Some gradients vanish because their terms cancel, and a rest of what cancelled stays (softmax does not see a key's
    bias): then relative to a hundredth of the largest norm of all.
    """
    assert actual.keys() == expected.keys()
    norms = {name: float(np.linalg.norm(array.astype(np.float64))) for name, array in expected.items()}
    largest = max(norms.values(), default=0.0)
    scales = {name: norm if norm > 1e-5 * largest else 1e-2 * largest for name, norm in norms.items()}
    errors = {
        name: float(np.linalg.norm((actual[name] - array).astype(np.float64))) for name, array in expected.items()
    }
    return max(error / max(scales[name], 1e-30) for name, error in errors.items())


def nodes_behind(model: onnx.ModelProto, of: Callable[[str], bool]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on whose names *of* accepts, in their order."""
    wanted = {value.name for value in model.graph.output if of(value.name)}
    found = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted |= set(_reads(node))
    return found[::-1]


def tangent_nodes(pushed: onnx.ModelProto) -> tuple[int, int]:
    """How many nodes of a model that `jvp` gave compute the tangents, and how many the outputs."""
    forward = len(nodes_behind(pushed, lambda name: not name.endswith(TANGENT)))
    return len(pushed.graph.node) - forward, forward


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (value.name for value in attribute.g.output)


def both(model: onnx.ModelProto, wrt: str | Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """The Jacobian and its transpose in one model."""
    pulled = onnxgrad.vjp(model, wrt=wrt, outputs=outputs)
    primals = [value.name.removesuffix(".grad") for value in pulled.graph.output if value.name.endswith(".grad")]
    return onnxgrad.jvp(pulled, wrt=primals, outputs=outputs)


def _direction(random: np.random.Generator, like: np.ndarray) -> np.ndarray:
    drawn = np.where(np.isfinite(like.astype(np.float64)), random.standard_normal(like.shape), 0)
    return np.asarray(drawn / (np.linalg.norm(drawn) or 1.0))


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _inputs(session: ort.InferenceSession) -> dict[str, np.dtype[Any]]:
    """The tensors that may be fed."""
    values = (*session.get_inputs(), *session.get_overridable_initializers())
    kinds = {value.name: value.type.removeprefix("tensor(").removesuffix(")") for value in values}
    return {name: np.dtype(_DTYPES.get(kind, kind)) for name, kind in kinds.items() if not kind.startswith("seq(")}


_DTYPES = {"float": "float32", "double": "float64", "string": "object", "bfloat16": "float32"}
