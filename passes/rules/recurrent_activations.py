"""The activation functions of recurrent operators (ONNX spec, RNN-22), as operators that have rules themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..registry import Primal, Registry, Rule
from ..tape import Tensor


@dataclass(frozen=True)
class Activation:
    """One activation function with its constants; its input is clamped to [-clip, clip] first.

    At its kinks and at the bounds of the clamp the derivative is that of the operators' own rules.
    """

    name: str
    alpha: float
    beta: float
    clip: float | None
    rules: Registry

    def __call__(self, x: Tensor) -> Tensor:
        if self.clip is not None:
            x = x.op.Clip(x, x.op.constant(-self.clip, x.dtype), x.op.constant(self.clip, x.dtype))
        return _FORMS[self.name](x, self.alpha, self.beta)

    @property
    def by_its_value(self) -> bool:
        """Whether its derivative follows from its value alone, by a product or two."""
        return self.clip is None and self.name in ("sigmoid", "tanh")

    def keep(self, x: Tensor, y: Tensor) -> Tensor:
        """Which of x and y = self(x) is to be kept for the backward part."""
        return y if self.by_its_value else x

    def again(self, kept: Tensor) -> Tensor:
        """The value, of what was kept."""
        return kept if self.by_its_value else self(kept)

    def pull_back(self, kept: Tensor, y: Tensor, dy: Tensor, product: Tensor | None = None) -> Tensor:
        """dy times the derivative of y = self(x), of what was kept.

        The derivative of sigmoid is y (1 - y), that of tanh 1 - y². Others follow from the rules of the operators from
        x to y.

        Args:
            product: dy y, where it is known.
        """
        if self.by_its_value:
            product = dy * y if product is None else product
            return (product if self.name == "sigmoid" else dy) - product * y
        value = y.value
        while value is not kept.value:
            node = value.producer()
            assert node is not None
            assert node.inputs[0] is not None
            rule = self.rules.get(node)
            assert isinstance(rule, Rule)
            active = [index == 0 for index in range(len(node.inputs))]
            cotangents = rule.function(Primal(node, dy.op, active, self.rules), dy)
            first = cotangents[0] if isinstance(cotangents, Sequence) else cotangents
            assert first is not None
            cotangent = first()
            assert cotangent is not None
            dy, value = cotangent, node.inputs[0]
        return dy


def read_activations(n: Primal, defaults: Sequence[str], clipped: Sequence[bool]) -> list[list[Activation]]:
    """The activations of each direction of the node, in the order of its equations.

    The values of `activation_alpha` and `activation_beta` go in order to the functions that take one (as in ONNX
    Runtime); where they are used up, the defaults are those of the operators of the same names.

    Args:
        defaults: the functions of one direction where the node names none.
        clipped: which of them have their input clamped by the attribute `clip`.

    Raises UnsupportedError on names outside the specification, and where a constant has no default.
    """
    directions = 2 if n.attr("direction", "forward") == "bidirectional" else 1
    names = n.attr("activations") or list(defaults) * directions
    if len(names) == len(defaults) and directions == 2:
        raise n.refuse(f"it has 2 directions, so `activations` must name {2 * len(defaults)} functions")
    alphas, betas = iter(n.attr("activation_alpha") or ()), iter(n.attr("activation_beta") or ())
    clip = n.attr("clip") or None
    activations = []
    for index, name in enumerate(names[: len(defaults) * directions]):
        known = name.lower()
        if known not in _FORMS:
            raise n.refuse(f"the activation function {name!r} is not one of the ONNX specification")
        activations.append(
            Activation(
                known,
                _next(n, name, "alpha", alphas, _ALPHA),
                _next(n, name, "beta", betas, _BETA),
                clip if clipped[index % len(defaults)] else None,
                n.rules,
            )
        )
    return [activations[start : start + len(defaults)] for start in range(0, len(activations), len(defaults))]


def _next(n: Primal, name: str, what: str, given: Iterator[float], defaults: Mapping[str, float | None]) -> float:
    if name.lower() not in defaults:
        return 0.0
    value = next(given, defaults[name.lower()])
    if value is None:
        raise n.refuse(f"{name} has no default {what}; give it in the attribute `activation_{what}`")
    return float(np.float32(value))  # as an attribute holds it


_ALPHA: dict[str, float | None] = {
    "affine": None,
    "elu": 1.0,
    "hardsigmoid": 0.2,
    "leakyrelu": 0.01,
    "scaledtanh": None,
    "thresholdedrelu": 1.0,
}
"""The default alpha of each function that has one; None where the specification gives no default."""
_BETA: dict[str, float | None] = {"affine": None, "hardsigmoid": 0.5, "scaledtanh": None}
"""The same for beta."""

_FORMS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "affine": lambda x, alpha, beta: x * alpha + beta,
    "elu": lambda x, alpha, _: x.op.Elu(x, alpha=alpha),
    "hardsigmoid": lambda x, alpha, beta: x.op.HardSigmoid(x, alpha=alpha, beta=beta),
    "leakyrelu": lambda x, alpha, _: x.op.LeakyRelu(x, alpha=alpha),
    "relu": lambda x, *_: x.op.Relu(x),
    "scaledtanh": lambda x, alpha, beta: x.op.Tanh(x * beta) * alpha,
    "sigmoid": lambda x, *_: x.op.Sigmoid(x),
    "softplus": lambda x, *_: x.op.Softplus(x),
    "softsign": lambda x, *_: x.op.Softsign(x),
    "tanh": lambda x, *_: x.op.Tanh(x),
    "thresholdedrelu": lambda x, alpha, _: x.op.ThresholdedRelu(x, alpha=alpha),
}
