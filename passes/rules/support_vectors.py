"""The rule of SVMRegressor, and why SVMClassifier has none."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..registry import Cotangent, Primal, Registry
from ..tape import Tensor
from .classical import CLASSICAL

rules = Registry()

rules.nondifferentiable(
    "SVMClassifier",
    domain=CLASSICAL,
    reason="its scores are votes between pairs of classes, or probabilities that are found by iteration",
)


@rules.vjp("SVMRegressor", domain=CLASSICAL)
def svm_regressor(n: Primal, dy: Tensor) -> Cotangent:
    """dx = dy Σ a k'(x, v) of y = Σ a k(x, v) + rho over the support vectors v, or dy a if there are none.

    k is xᵀv, (gamma xᵀv + coef0)^degree, exp(-gamma |x - v|²) or tanh(gamma xᵀv + coef0). A one-class machine gives a
    sign, whose gradient is 0. The post-transform has no effect, as in ONNX Runtime.
    """
    return None if n.attr("one_class", 0) else _Machine(n, dy).cotangent


class _Machine:
    def __init__(self, n: Primal, dy: Tensor) -> None:
        self.n, self.op, self.dy = n, n.op, dy
        self.gamma, self.shift, self.degree = (float(value) for value in n.attr("kernel_params", (0.0, 0.0, 0.0)))

    def cotangent(self) -> Tensor:
        n, dy = self.n, self.dy
        coefficients = np.reshape(n.attr("coefficients"), (1, -1))
        kernel = n.attr("kernel_type", "LINEAR")
        slopes = {"POLY": self._of_power, "RBF": self._of_distance, "SIGMOID": self._of_tanh}
        if not n.attr("n_supports", 0):
            dx = dy @ self._constant(coefficients)
        elif kernel == "LINEAR":
            dx = dy @ self._constant(coefficients @ self.vectors)
        elif kernel in slopes:
            dx = slopes[kernel](dy * self._constant(coefficients))
        else:
            raise n.refuse(f"there is no kernel_type {kernel!r}")
        return dx.reshape_like(n.required(0))

    def _of_power(self, dk: Tensor) -> Tensor:
        slope = self._scores ** (self.degree - 1.0) * (self.degree * self.gamma)
        return (dk * slope) @ self._constant(self.vectors)

    def _of_tanh(self, dk: Tensor) -> Tensor:
        k = self.op.Tanh(self._scores)
        return (dk * (1.0 - k * k) * self.gamma) @ self._constant(self.vectors)

    def _of_distance(self, dk: Tensor) -> Tensor:
        """-2 gamma Σ k (x - v), with |x - v|² = |x|² - 2 xᵀv + |v|²"""
        x, vectors = self._x, self.vectors
        norms = (x * x).sum([-1], keepdims=True) + self._constant(np.square(vectors).sum(1))
        distances = norms - x @ self._constant(vectors.T) * 2.0
        weighted = dk * self.op.Exp(distances * -self.gamma)
        return (weighted @ self._constant(vectors) - x * weighted.sum([-1], keepdims=True)) * (2.0 * self.gamma)

    @cached_property
    def vectors(self) -> np.ndarray:
        """(support vectors, features)"""
        return np.reshape(self.n.attr("support_vectors"), (self.n.attr("n_supports"), -1)).astype(np.float64)

    @cached_property
    def _x(self) -> Tensor:
        """(rows, features), in the type of the cotangent"""
        x = self.n.required(0).cast(self.dy.dtype)
        return x.unsqueeze([0]) if x.rank == 1 else x

    @cached_property
    def _scores(self) -> Tensor:
        """gamma xᵀv + coef0"""
        return self._x @ self._constant(self.gamma * self.vectors.T) + self.shift

    def _constant(self, values: np.ndarray) -> Tensor:
        return self.op.constant(values, self.dy.dtype)
