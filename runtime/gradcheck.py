"""Gradient check: a program's gradients against finite differences of its own forward part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compiler.compile import compile as compile_program
from ..compiler.load import ModelLike, load_model
from ..compiler.program import Program
from ..compiler.signature import SIGNATURE_KEY, Signature
from ..passes.errors import GradcheckError, InputError
from .buffers import np_dtype
from .device import Provider
from .exact_forward import in_float64
from .feeds import Array, to_numpy
from .objective import Objective
from .sample_inputs import sample_seeds
from .session import Session

MAX_ELEMENTS = 64
"""How many elements of a larger tensor are checked."""

_STEPS = {
    "float64": (1e-6, 1e-4, 1e-8),
    "float32": (3e-2, 3e-3, 1e-1),
    "float16": (1e-1, 1e-2, 3e-1),
    "bfloat16": (2e-1, 2e-2, 5e-1),
}
"""By the precision of the differences."""

_TOLERANCES = {
    "float64": (1e-5, 1e-3),
    "float32": (1e-4, 1e-3),
    "float16": (3e-2, 1e-1),
    "bfloat16": (1e-1, 3e-1),
    "float64 alone": (1e-5, 1e-3),
    "float32 alone": (1e-2, 1e-2),
    "float16 alone": (3e-2, 1e-1),
    "bfloat16 alone": (1e-1, 3e-1),
}
"""Relative to the gradient, and to the derivative, by the dtype; "alone": where the differences are in it, too."""
_OPTIONS = ("eps", "atol", "rtol", "raise_exception", "fast_mode", "max_elements", "providers", "on_checked")
"""The arguments of `gradcheck` that `gradgradcheck` hands on."""
_MIXES = (0.0, 1.0, 1.0)
"""How much of a random direction is mixed into the gradient's own, for each of the directions that are checked."""


@dataclass(frozen=True)
class Comparison:
    """A derivative as the program computes it, and as central differences measure it.

    Attributes:
        index: of the element; None where the derivative is along a direction in which all elements take part.
    """

    index: tuple[int, ...] | None
    analytic: float
    numerical: float

    @property
    def absolute(self) -> float:
        """The absolute error."""
        return abs(self.analytic - self.numerical)

    @property
    def relative(self) -> float:
        """The error relative to the larger of the two."""
        return self.absolute / max(abs(self.analytic), abs(self.numerical), np.finfo(np.float64).tiny)

    def __str__(self) -> str:
        where = "along a direction" if self.index is None else f"at {list(self.index)}"
        return (
            f"{where}: analytic {self.analytic:.6g}, numerical {self.numerical:.6g} "
            f"(absolute error {self.absolute:.2g}, relative {self.relative:.2g})"
        )


@dataclass(frozen=True)
class GradientCheck:
    """The verdict on one gradient.

    Attributes:
        name: the primal.
        norm: the Euclidean norm of the gradient.
        elements: how many of its elements were moved one by one.
        size: how many it has.
        precision: of the finite differences: "float64", or the primal's dtype where only ONNX Runtime computes them.
        worst: the comparison that is furthest off, measured by what was allowed.
        passed: whether all were within what is allowed.
    """

    name: str
    norm: float
    elements: int
    size: int
    precision: str
    worst: Comparison
    passed: bool


@dataclass(frozen=True)
class GradcheckReport:
    """The verdicts on all gradients; true if all passed."""

    checks: tuple[GradientCheck, ...]

    @property
    def wrong(self) -> tuple[GradientCheck, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def __bool__(self) -> bool:
        return not self.wrong


@dataclass(frozen=True)
class Tolerances:
    """What the user asked for, or None for what the dtypes suggest; *floor* is the least scale of a gradient."""

    eps: float | None
    atol: float | None
    rtol: float | None
    floor: float

    def steps(self, precision: str) -> Sequence[float]:
        return _STEPS[precision] if self.eps is None else (self.eps,)

    def allowed(self, comparison: Comparison, dtype: str, precision: str, scale: float) -> float:
        """Beside rounding, for a gradient of *dtype* of the size *scale*."""
        atol, rtol = _TOLERANCES[dtype if precision == "float64" else f"{dtype} alone"]
        atol *= max(scale, self.floor)
        atol, rtol = (atol if self.atol is None else self.atol), (rtol if self.rtol is None else self.rtol)
        return atol + rtol * abs(comparison.numerical)


def gradcheck(
    model: Program | ModelLike,
    inputs: Mapping[str, Array],
    grad_outputs: Mapping[str, Array] | None = None,
    *,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    fast_mode: bool = False,
    max_elements: int = MAX_ELEMENTS,
    seed: int = 0,
    providers: Sequence[Provider] | None = None,
    on_checked: Callable[[GradientCheck], None] | None = None,
    **options: Any,
) -> GradcheckReport:
    """Check every gradient of a program, as ONNX Runtime computes it, against central differences.

    The differences are taken in float64, by onnx's reference evaluator, whatever the dtype of the model. Where that
    evaluator cannot run the forward part, or computes something else than ONNX Runtime, they are taken with ONNX
    Runtime in the model's dtype, and more is allowed.

    Each element is moved by itself. Of a tensor with more than *max_elements*, half of the elements that are moved
    are those with the largest gradients, the rest is drawn at random, and directions in which all elements move at
    once are checked beside them. An element passes when `|analytic - numerical| <= atol + rtol * |numerical|`, beside
    what rounding adds to a difference. The names are those of `torch.autograd.gradcheck`.

    Args:
        model: a program, the path of one, or a forward model, which is compiled with *options*.
        inputs: the inputs and labels.
        grad_outputs: as `Session.grad` takes them; random ones for outputs of more than one element if None.
        eps: the step; if None, several are tried where the first disagrees, since rounding spoils small ones,
            curvature and kinks large ones.
        atol: if None, relative to the largest element of the gradient: 1e-5 for float64, 1e-4 for float32, 3e-2 for
            float16, 1e-1 for bfloat16; a hundred times as much for float32 where ONNX Runtime takes the differences.
        rtol: if None, 1e-3 for float64 and float32, 1e-1 for float16, 3e-1 for bfloat16, and ten times as much for
            float32 in that case.
        raise_exception: raise when a gradient is wrong, instead of only reporting it.
        fast_mode: only check directions in which all elements move at once, with differences by ONNX Runtime: a few
            runs of the forward part for each gradient.
        max_elements: of one tensor that are moved one by one.
        seed: of what is drawn at random.
        on_checked: called after each gradient.

    Raises:
        GradcheckError: a gradient is wrong; the message names the worst element.
        InputError: an input does not fit; a member of `wrt` is an intermediate value (which cannot be moved from
            outside); or the forward part draws random numbers.
    """
    if max_elements < 1:
        raise InputError(f"max_elements is at least 1, not {max_elements}")
    if eps is not None and not 0 < eps < np.inf:
        raise InputError(f"eps is a finite step, more than 0, not {eps}")
    session = Session(as_program(model, options), providers=providers)
    seeds = dict(grad_outputs) if grad_outputs is not None else sample_seeds(session, inputs, seed=seed)
    gradients = session.grad(inputs, seeds)
    point = {name: to_numpy(array) for name, array in inputs.items()} | {
        name: np.array(array) for name, array in session.parameters.items()
    }
    for name in gradients:
        if name not in point:
            raise InputError(f"{name!r} is an intermediate value: it cannot be moved from outside, so not be checked")
    for name, array in point.items():
        if np.any(np.isnan(in_float64(array))):
            raise InputError(f"{name!r} has NaN, at which nothing has a gradient to check; clean the data")
    objective = Objective(session, point, inputs.keys(), seeds, exact=not fast_mode)
    largest = max((float(np.max(np.abs(in_float64(g)), initial=0.0)) for g in gradients.values()), default=0.0)
    tolerances = Tolerances(eps, atol, rtol, floor=1e-2 * largest)
    random = np.random.default_rng(seed)
    checks = []
    for name, gradient in gradients.items():
        exact = in_float64(gradient)
        indices = [] if fast_mode else _elements(exact, max_elements, random)
        checks.append(_check(name, exact, indices, objective, tolerances, random))
        if on_checked is not None:
            on_checked(checks[-1])
    report = GradcheckReport(tuple(checks))
    if raise_exception and not report:
        raise GradcheckError(describe_wrong(report))
    return report


def gradgradcheck(
    model: Program | ModelLike,
    inputs: Mapping[str, Array],
    grad_outputs: Mapping[str, Array] | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> GradcheckReport:
    """Check the second derivatives of a program: those of its gradients, by everything that they depend on.

    The joint graph is compiled once more, differentiated with respect to the same members of `wrt` and the seeds of
    the outputs, and checked as `gradcheck` does, whose other arguments *options* may hold. It raises what that raises.

    Args:
        grad_outputs: the seeds of the first differentiation, at which the second takes place; random ones if None.
    """
    checking = {name: options.pop(name) for name in _OPTIONS if name in options}
    first = as_program(model, options).with_mode("grad")
    session = Session(first, providers=checking.get("providers"))
    seeds = dict(grad_outputs) if grad_outputs is not None else sample_seeds(session, inputs, seed=seed)
    joint, point = first.model.clone(), dict(inputs)
    for port in first.signature.inputs_of("grad_output"):
        joint.graph.initializers.pop(port.name, None)  # a seed is a point to differentiate at, not a parameter
        point[port.name] = seeds.get(str(port.of), np.ones(port.static_shape or (), np_dtype(port.dtype)))
    gradients = list(first.signature.outputs_of("gradient"))
    second = compile_program(
        joint,
        wrt=[*(str(port.of) for port in gradients), *(p.name for p in first.signature.inputs_of("grad_output"))],
        outputs=[port.name for port in gradients],
        materialize_grads=True,
    )
    return gradcheck(second, point, seed=seed, **checking)


def as_program(model: Program | ModelLike, options: Mapping[str, Any]) -> Program:
    """*model* itself, the program that it is the joint graph of, or the forward model *model* compiled with *options*.

    Raises InputError when there are *options* for a Program.
    """
    if isinstance(model, Program):
        if options:
            raise InputError(f"{', '.join(options)}: a program is compiled already; give the forward model")
        return model
    if not options:
        loaded = load_model(model).model
        if SIGNATURE_KEY in loaded.metadata_props:
            return Program(loaded, Signature.from_json(loaded.metadata_props[SIGNATURE_KEY]))
    return compile_program(model, **options)


def describe_wrong(report: GradcheckReport, most: int = 3) -> str:
    """Which gradients are wrong, the worst element of each."""
    wrong = report.wrong
    lines = [f"  - {check.name!r} {check.worst} in {check.precision} differences" for check in wrong[:most]]
    if len(wrong) > most:
        lines.append(f"  - and {len(wrong) - most} more")
    return f"{len(wrong)} of {len(report.checks)} gradients disagree with finite differences:\n" + "\n".join(lines)


def _elements(gradient: np.ndarray, most: int, random: np.random.Generator) -> list[tuple[int, ...]]:
    flat = np.abs(gradient).reshape(-1)
    if flat.size <= most:
        chosen = np.arange(flat.size)
    else:
        top = np.argsort(-flat, kind="stable")[: most // 2]
        rest = np.setdiff1d(np.arange(flat.size), top, assume_unique=True)
        chosen = np.concatenate([top, random.choice(rest, most - top.size, replace=False)])
    return [tuple(int(axis) for axis in np.unravel_index(index, gradient.shape)) for index in chosen]


def _probes(
    gradient: np.ndarray, indices: Sequence[tuple[int, ...]], random: np.random.Generator
) -> Iterator[tuple[tuple[int, ...] | None, np.ndarray, float]]:
    """Directions of length 1 to move in, each with the index of its one element, and the scale of the derivative."""
    largest = float(np.max(np.abs(gradient), initial=0.0))
    for index in indices:
        direction = np.zeros(gradient.shape)
        direction[index] = 1.0
        yield index, direction, largest
    if len(indices) < gradient.size:
        norm = float(np.linalg.norm(gradient))
        for mix in _MIXES:
            direction = _unit(gradient) + mix * _unit(random.standard_normal(gradient.shape))
            yield None, _unit(direction if np.any(direction) else random.standard_normal(gradient.shape)), norm


def _check(
    name: str,
    gradient: np.ndarray,
    indices: Sequence[tuple[int, ...]],
    objective: Objective,
    tolerances: Tolerances,
    random: np.random.Generator,
) -> GradientCheck:
    dtype = objective.point[name].dtype.name
    precision = "float64" if objective.exact else dtype
    worst, excess = Comparison(None, 0.0, 0.0), -1.0
    for index, direction, scale in _probes(gradient, indices, random):
        analytic = float(np.sum(gradient * direction))
        best, least = Comparison(index, analytic, np.nan), np.inf
        for step in tolerances.steps(precision):
            numerical, noise = objective.slope(name, direction, step)
            found = Comparison(index, analytic, numerical)
            allowed = tolerances.allowed(found, dtype, precision, scale) + noise
            ratio = found.absolute / max(allowed, np.finfo(np.float64).tiny)
            if not ratio > least or np.isnan(best.numerical):
                best, least = found, ratio if np.isfinite(ratio) else np.inf
            if least <= 1:
                break
        if least > excess:
            worst, excess = best, least
    return GradientCheck(
        name, float(np.linalg.norm(gradient)), len(indices), gradient.size, precision, worst, bool(excess <= 1)
    )


def _unit(direction: np.ndarray) -> np.ndarray:
    return direction / max(float(np.linalg.norm(direction)), 1e-30)
