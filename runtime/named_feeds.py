"""What a call gives, the inputs and the cotangents of outputs, by the names that a graph has for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnxruntime as ort

from ..passes.errors import InputError
from .executor import Executor
from .feeds import Array


def name_feeds(
    executor: Executor, known: Collection[str], inputs: Mapping[str, Array], grad_outputs: Mapping[str, Array] | None
) -> Mapping[str, np.ndarray | ort.OrtValue]:
    """What the graph of *executor* is fed, checked; seeds that nobody gave are left out.

    Args:
        known: the inputs and labels of the whole program, of which a part may be given some that it does not need.

    Raises InputError for anything that does not fit the graph.
    """
    _check_mapping("inputs", inputs)
    if grad_outputs is not None:
        _check_mapping("grad_outputs", grad_outputs)
    arrays = inputs
    if not inputs.keys() <= executor.fed.keys():
        arrays = {name: array for name, array in inputs.items() if name in executor.fed or name not in known}
    if grad_outputs or executor.needs_seeds:
        arrays = {**arrays, **_seeds(executor, grad_outputs or {})}
    return executor.check(arrays)


def _check_mapping(argument: str, arrays: object) -> None:
    if not isinstance(arrays, Mapping):
        raise InputError(f"{argument} maps names to arrays; it is of type {type(arrays).__name__}")


def _seeds(executor: Executor, given: Mapping[str, Array]) -> dict[str, Array]:
    """The cotangents that are *given* for outputs, by the graph's own names. Raises InputError for unfit names."""
    seeds = executor.seeds
    unknown = [name for name in given if name not in seeds]
    if unknown:
        raise InputError(
            f"grad_outputs: {unknown[0]!r} is not differentiated; the outputs are {', '.join(map(repr, seeds))}"
        )
    missing = [name for name, port in seeds.items() if not port.optional and name not in given]
    if missing:
        raise InputError(
            f"Output {missing[0]!r} has more than one element, so its gradient needs a seed: "
            f"pass grad_outputs={{{missing[0]!r}: …}} of its shape (ones for the gradient of its sum)"
        )
    return {seeds[name].name: array for name, array in given.items()}
