"""The number whose derivatives a gradient check measures: <seeds, outputs>, as a function of what can be moved."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ..passes.errors import InputError
from .exact_forward import ExactForward, in_float64
from .feeds import Array, to_numpy
from .session import Session

_AGREEMENT = {"float64": 1e-6, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
"""How far two evaluations in a dtype may be apart, relative to their norm, when they compute the same."""
_ROUNDING = {"float64": 1e-14, "float32": 1e-6, "float16": 3e-3, "bfloat16": 2e-2}
"""The relative error of an evaluation in a dtype."""


class Objective:
    """<seeds, outputs> around a point.

    Attributes:
        point: the inputs, labels and parameters.
        exact: whether it is computed in float64, by the reference evaluator, and not by ONNX Runtime.
    """

    def __init__(
        self,
        session: Session,
        point: Mapping[str, np.ndarray],
        fed: Collection[str],
        seeds: Mapping[str, Array],
        *,
        exact: bool = True,
    ) -> None:
        """The objective of *session*'s program at *point*, whose members *fed* are no parameters.

        Args:
            exact: compute it in float64 where that can be done.

        Raises InputError when the forward part gives something else each time.
        """
        self.point = point
        self._session, self._fed = session, fed
        outputs, again = self._run(point), self._run(point)
        for name, array in outputs.items():
            if not _agree(array, again[name]):
                raise InputError(
                    f"Output {name!r} differs from run to run: the forward part draws random numbers (a Dropout in "
                    "training mode?), so finite differences do not exist. Export the model in evaluation mode"
                )
        differentiated = {str(port.of) for port in session.program.signature.inputs_of("grad_output")}
        self._seeds = {
            name: in_float64(to_numpy(seeds[name])) if name in seeds else np.ones(outputs[name].shape)
            for name in outputs
            if name in differentiated
        }
        self._dtype = next((outputs[name].dtype.name for name in self._seeds), "float32")
        self._exact = _exact_forward(session, point, outputs) if exact else None
        self.exact = self._exact is not None

    def slope(self, name: str, direction: np.ndarray, step: float) -> tuple[float, float]:
        """The central difference along *direction* (of length 1), in which *name* moves, and what rounding adds."""
        primal = self.point[name]
        dtype = np.dtype(np.float64) if self.exact else primal.dtype
        # Rounding the moved points to the dtype changes the step; divide by what was really moved.
        above, below = ((in_float64(primal) + sign * step * direction).astype(dtype) for sign in (1, -1))
        moved = float(np.sum((in_float64(above) - in_float64(below)) * direction))
        if not moved:
            return np.nan, 0.0
        (ahead, size), (behind, _) = self._value(name, above), self._value(name, below)
        rounding = _ROUNDING["float64" if self.exact else self._dtype]
        return (ahead - behind) / moved, rounding * size / abs(moved)

    def _value(self, name: str, primal: np.ndarray) -> tuple[float, float]:
        """The objective with *primal* as *name*, and the sum of the magnitudes of its terms."""
        moved = {**self.point, name: primal}
        outputs = self._run(moved, name) if self._exact is None else self._exact.run(moved)
        value, size = 0.0, 0.0
        for output, seed in self._seeds.items():
            terms = np.where(seed == 0, 0.0, seed * in_float64(outputs[output]))
            value += float(np.sum(terms))
            size += float(np.sum(np.abs(terms)))
        return value, size

    def _run(self, point: Mapping[str, np.ndarray], moved: str | None = None) -> dict[str, np.ndarray]:
        """The outputs by ONNX Runtime; *moved* is what differs from the point at which the parameters are."""
        session = self._session
        loss = session.program.signature.loss is not None
        is_parameter = moved is not None and moved in session.parameters
        if moved is not None and is_parameter:
            session.parameters[moved] = point[moved]
        try:
            return session.run({name: point[name] for name in self._fed}, loss=loss)
        finally:
            if moved is not None and is_parameter:
                session.parameters[moved] = self.point[moved]


def _exact_forward(
    session: Session, point: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> ExactForward | None:
    """The forward part in float64; None where the evaluator cannot run it, or disagrees with ONNX Runtime."""
    try:
        exact = ExactForward(session.program)
        computed = exact.run(point)
    except Exception:  # there are many ways in which the evaluator gives up
        return None
    return exact if all(_agree(array, computed[name]) for name, array in outputs.items()) else None


def _agree(array: np.ndarray, other: np.ndarray) -> bool:
    if array.shape != other.shape:
        return False
    if array.dtype.name not in _AGREEMENT:
        return bool(np.array_equal(array, other))
    mine, yours = in_float64(array), in_float64(other)
    finite = np.isfinite(mine)
    if not np.array_equal(mine[~finite], yours[~finite], equal_nan=True):
        return False
    distance, norm = np.linalg.norm(mine[finite] - yours[finite]), np.linalg.norm(mine[finite])
    return bool(distance <= _AGREEMENT[array.dtype.name] * max(float(norm), 1e-6))
