"""Gradient check: a program's gradients against finite differences of its own forward part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..passes.errors import InputError
from .feeds import Array
from .session import Session

TOLERANCES = {"float64": 1e-6, "float32": 1e-2, "float16": 1e-1, "bfloat16": 3e-1}
"""The largest relative error that passes, by the dtype of the primal: what central differences can tell in it."""

_STEPS = {"float64": 1e-5, "float32": 3e-2, "float16": 1e-1, "bfloat16": 2e-1}


@dataclass(frozen=True)
class GradientCheck:
    """The verdict on one gradient.

    Attributes:
        name: the primal.
        norm: the Euclidean norm of the gradient.
        error: the difference between the directional derivative that the gradient gives and the one that central
            differences measure, relative to the norm of the gradient; the worst of several directions.
        passed: whether it is below the tolerance of the dtype.
    """

    name: str
    norm: float
    error: float
    passed: bool


def check_gradients(
    session: Session,
    inputs: Mapping[str, Array],
    *,
    seed: int = 0,
    on_checked: Callable[[GradientCheck], None] | None = None,
) -> list[GradientCheck]:
    """Check the gradient of every member of `wrt` of *session*'s program at *inputs*.

    The derivative is measured along the gradient itself, which shows its length, and along it mixed with random
    directions, which shows components that are missing. Each is taken with several step sizes, since rounding
    spoils small ones and curvature large ones; the best agreement counts. Outputs are seeded at random.

    Raises InputError when an input does not fit, or a member of `wrt` is an intermediate value (which cannot be
    moved from outside).
    """
    random = np.random.default_rng(seed)
    program = session.program
    loss = program.signature.loss
    outputs = session.run(inputs, loss=loss is not None)
    seeded = {str(port.of) for port in program.signature.inputs_of("grad_output")}
    seeds = {
        name: random.standard_normal(array.shape).astype(array.dtype) if array.size > 1 else np.ones_like(array)
        for name, array in outputs.items()
        if name in seeded
    }
    gradients = session.grad(inputs, seeds)

    def value(name: str, primal: np.ndarray) -> float:
        if name in session.parameters:
            session.parameters[name] = primal
            moved = session.run(inputs, loss=loss is not None)
        else:
            moved = session.run({**inputs, name: primal}, loss=loss is not None)
        return float(sum(np.sum(seeds[key].astype(np.float64) * moved[key].astype(np.float64)) for key in seeds))

    checks = []
    for name, gradient in gradients.items():
        if name in session.parameters:
            primal = np.array(session.parameters[name])
        elif name in inputs:
            primal = np.asarray(inputs[name])
        else:
            raise InputError(f"{name!r} is an intermediate value: it cannot be moved from outside, so not be checked")
        try:
            check = _check(name, primal, gradient, lambda moved, name=name: value(name, moved), random)  # type: ignore[misc]
        finally:
            if name in session.parameters:
                session.parameters[name] = primal
        checks.append(check)
        if on_checked is not None:
            on_checked(check)
    return checks


def _check(
    name: str,
    primal: np.ndarray,
    gradient: np.ndarray,
    value: Callable[[np.ndarray], float],
    random: np.random.Generator,
) -> GradientCheck:
    dtype = primal.dtype.name
    exact = gradient.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    scale = max(norm, 1e-12)
    worst = 0.0
    for mix in (0.0, 1.0, 1.0):
        direction = exact / scale + mix * _unit(random.standard_normal(primal.shape))
        direction = _unit(direction) if np.any(direction) else _unit(random.standard_normal(primal.shape))
        expected = float(np.sum(exact * direction))
        errors = []
        for step in (_STEPS[dtype], _STEPS[dtype] / 10, _STEPS[dtype] / 100):
            # Rounding the moved points to the dtype changes the step; divide by what was really moved.
            above = (primal + step * direction).astype(primal.dtype)
            below = (primal - step * direction).astype(primal.dtype)
            moved = float(np.sum((above.astype(np.float64) - below.astype(np.float64)) * direction))
            if moved:
                errors.append(abs((value(above) - value(below)) / moved - expected))
        worst = max(worst, min(errors, default=np.inf))
    # A gradient of zero is measured against the noise of the differences instead of its own length.
    error = worst / max(norm, TOLERANCES[dtype])
    return GradientCheck(name, norm, float(error), bool(error <= TOLERANCES[dtype]))


def _unit(direction: np.ndarray) -> np.ndarray:
    return direction / max(float(np.linalg.norm(direction)), 1e-30)
