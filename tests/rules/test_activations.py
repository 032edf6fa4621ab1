"""The activation functions against their contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .checking import check_edge_values, check_rule

Function = Callable[..., torch.Tensor]

ALPHA = float(np.float32(0.3))
"""An attribute value that ONNX, which stores float32, keeps as it is."""
SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
"""The defaults of Selu; PyTorch's have more digits."""


def sample(*shape: int) -> np.ndarray:
    """Values in ±(0.1, 2.4), off the kinks at 0, ±0.5, ±1 and ±3."""
    random = np.random.default_rng([4, *shape])
    steps = random.integers(0, 5, shape) * 0.5 + random.uniform(0.1, 0.4, shape)
    return np.asarray(steps * random.choice([-1, 1], shape))


def two_pieces(positive: Function, negative: Function) -> Function:
    return lambda x: torch.where(x > 0, positive(x), negative(x))


def elu(alpha: float) -> Function:
    return two_pieces(lambda x: x, lambda x: alpha * torch.expm1(x))


def selu(alpha: float, gamma: float) -> Function:
    return two_pieces(lambda x: gamma * x, lambda x: gamma * alpha * torch.expm1(x))


def celu(alpha: float) -> Function:
    return two_pieces(lambda x: x, lambda x: alpha * torch.expm1(x / alpha))


def leaky_relu(alpha: float) -> Function:
    return two_pieces(lambda x: x, lambda x: alpha * x)


def shrink(lambd: float, bias: float) -> Function:
    return lambda x: torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, x * 0))


BOTH = (np.float32, np.float16)
CASES: list[tuple[str, Mapping[str, Any], Function, tuple[type, ...]]] = [
    ("Relu", {}, torch.relu, BOTH),
    ("LeakyRelu", {}, leaky_relu(float(np.float32(0.01))), BOTH),
    ("LeakyRelu", {"alpha": ALPHA}, leaky_relu(ALPHA), BOTH),
    ("LeakyRelu", {"alpha": 0.0}, leaky_relu(0.0), BOTH),
    ("LeakyRelu", {"alpha": -ALPHA}, leaky_relu(-ALPHA), BOTH),
    ("ThresholdedRelu", {}, lambda x: F.threshold(x, 1.0, 0.0), BOTH),
    ("ThresholdedRelu", {"alpha": -1.0}, lambda x: F.threshold(x, -1.0, 0.0), BOTH),
    ("Shrink", {}, shrink(0.5, 0.0), BOTH),
    ("Shrink", {"lambd": 1.0, "bias": 0.25}, shrink(1.0, 0.25), BOTH),
    ("Elu", {}, F.elu, BOTH),
    ("Elu", {"alpha": ALPHA}, elu(ALPHA), BOTH),
    ("Elu", {"alpha": 0.0}, elu(0.0), BOTH),
    ("Elu", {"alpha": -ALPHA}, elu(-ALPHA), BOTH),
    ("Selu", {}, selu(SELU_ALPHA, SELU_GAMMA), BOTH),
    ("Selu", {"alpha": 0.5, "gamma": 2.0}, selu(0.5, 2.0), BOTH),
    ("Selu", {"alpha": -0.5, "gamma": 2.0}, selu(-0.5, 2.0), BOTH),
    ("Selu", {"alpha": 0.5, "gamma": -2.0}, selu(0.5, -2.0), BOTH),
    ("Celu", {}, F.celu, (np.float32,)),
    ("Celu", {"alpha": 2.0}, celu(2.0), (np.float32,)),
    ("Celu", {"alpha": ALPHA}, celu(ALPHA), (np.float32,)),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, lambda x: torch.clamp(0.25 * x + 0.5, 0, 1), BOTH),
    ("HardSwish", {}, F.hardswish, BOTH),
    ("Sigmoid", {}, torch.sigmoid, BOTH),
    ("Tanh", {}, torch.tanh, BOTH),
    ("Softplus", {}, F.softplus, BOTH),
    ("Gelu", {}, F.gelu, BOTH),
    ("Gelu", {"approximate": "none"}, F.gelu, BOTH),
    ("Gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh"), BOTH),
    ("Mish", {}, F.mish, BOTH),
    # No kernel in ONNX Runtime 1.31 has Swish.
    ("Swish", {}, F.silu, ()),
    ("Swish", {"alpha": ALPHA}, lambda x: x * torch.sigmoid(ALPHA * x), ()),
]


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize(("op_type", "attributes", "function", "dtypes"), CASES)
def test_activation(
    op_type: str,
    attributes: Mapping[str, Any],
    function: Function,
    dtypes: tuple[type, ...],
    shape: tuple[int, ...],
) -> None:
    for x in (sample(*shape), 1.9 * sample(*shape)):
        check_rule(op_type, [x], attributes=attributes, torch_function=function, runtime_dtypes=dtypes)


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_softsign(shape: tuple[int, ...]) -> None:
    """Not of rank 0, where the reference evaluator fails."""
    check_rule("Softsign", [sample(*shape)], torch_function=F.softsign)


def test_default_hard_sigmoid() -> None:
    check_rule("HardSigmoid", [sample(2, 3)], torch_function=lambda x: torch.clamp(0.2 * x + 0.5, 0, 1))


@pytest.mark.parametrize(
    ("x", "slope"),
    [((2, 3), (2, 3)), ((2, 3), (1,)), ((2, 3), (3,)), ((2, 3, 2), (3, 1)), ((), ()), ((2, 3), ())],
)
def test_prelu(x: tuple[int, ...], slope: tuple[int, ...]) -> None:
    slopes = np.random.default_rng(5).uniform(-0.5, 0.5, slope)
    check_rule("PRelu", [sample(*x), slopes], torch_function=lambda x, a: torch.where(x > 0, x, a * x))


@pytest.mark.parametrize(
    ("op_type", "attributes", "function", "points"),
    [
        ("Relu", {}, torch.relu, [0.0, -0.0, np.inf, -np.inf, np.nan]),
        ("LeakyRelu", {"alpha": 0.25}, lambda x: F.leaky_relu(x, 0.25), [0.0, -0.0, np.inf, -np.inf]),
        ("LeakyRelu", {"alpha": -0.25}, lambda x: F.leaky_relu(x, -0.25), [0.0, -0.0]),
        ("ThresholdedRelu", {}, lambda x: F.threshold(x, 1.0, 0.0), [1.0, 0.0]),
        ("Shrink", {"lambd": 0.5, "bias": 0.5}, lambda x: F.softshrink(x, 0.5), [0.5, -0.5, 0.0]),
        ("Shrink", {"lambd": 0.5}, lambda x: F.hardshrink(x, 0.5), [0.5, -0.5, 0.0]),
        ("Elu", {"alpha": 2.0}, lambda x: F.elu(x, 2.0), [0.0, -np.inf, np.inf]),
        ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}, lambda x: F.hardsigmoid(1.5 * x), [-2.0, 2.0]),
        ("HardSwish", {}, F.hardswish, [-3.0, 3.0, -4.0, 4.0]),
        ("Sigmoid", {}, torch.sigmoid, [-np.inf, np.inf, 0.0]),
        ("Tanh", {}, torch.tanh, [-np.inf, np.inf, 0.0]),
        ("Softplus", {}, F.softplus, [0.0, 60.0, 300.0]),
        ("Softsign", {}, F.softsign, [0.0, 300.0, -300.0]),
        ("Gelu", {}, F.gelu, [0.0, 300.0, -300.0]),
        ("Gelu", {"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh"), [0.0, 300.0, -300.0]),
    ],
)
def test_kinks_and_tails(op_type: str, attributes: Mapping[str, Any], function: Function, points: list[float]) -> None:
    check_edge_values(op_type, [np.array(points)], function, attributes=attributes)


def test_prelu_at_its_kink() -> None:
    check_edge_values("PRelu", [np.array([0.0, -0.0, 1.0, -1.0]), np.array([0.25])], F.prelu)


def test_celu_at_its_kink() -> None:
    check_edge_values("Celu", [np.array([0.0])], F.celu, runtime_dtypes=[np.float32])
    check_edge_values("Selu", [np.array([0.0])], selu(SELU_ALPHA, SELU_GAMMA))
