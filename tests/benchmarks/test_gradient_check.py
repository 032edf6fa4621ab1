"""A wrong gradient is found, and the initializers' gradients become the parameters'."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gradient_check import TOLERANCE, largest_error
from benchmarks.origins import find_origins, pull_back

RNG = np.random.default_rng(0)
EXPECTED = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=5), "cancels": RNG.normal(size=4) * 1e-9}


def test_rounding_passes() -> None:
    actual = {name: gradient * (1 + 1e-6) for name, gradient in EXPECTED.items()}
    actual["cancels"] = RNG.normal(size=4) * 1e-9
    error, _ = largest_error(actual, EXPECTED)
    assert error < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [{"b": 1.01 * EXPECTED["b"]}, {"b": EXPECTED["b"][::-1]}, {"b": EXPECTED["b"][:4]}, {"b": np.full(5, np.nan)}],
)
def test_wrong_gradients_fail(wrong: dict[str, np.ndarray]) -> None:
    error, name = largest_error({**EXPECTED, **wrong}, EXPECTED)
    assert not error < TOLERANCE
    assert name == "b"


def test_missing_gradient_fails() -> None:
    assert largest_error({"a": EXPECTED["a"], "cancels": EXPECTED["cancels"]}, EXPECTED) == (np.inf, "b")


def test_pulls_back_what_exporters_do() -> None:
    """The gradient of sum(initializer * cotangent), by each parameter, is what is pulled back."""
    shapes = {"same": (2, 3), "w": (3, 2), "token": (1, 1, 4), "scale": (6,), "bias_ih_l0": (8,), "bias_hh_l0": (8,)}
    parameters = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gates = [parameters[name].reshape(4, 2)[[0, 3, 1, 2]].reshape(-1) for name in ("bias_ih_l0", "bias_hh_l0")]
    initializers = {
        "same": parameters["same"],
        "w.T": parameters["w"].T,
        "tokens": np.broadcast_to(parameters["token"], (5, 1, 4)),
        "scale.3d": parameters["scale"].reshape(6, 1, 1),
        "B": np.concatenate(gates)[None],
        "constant": np.ones(7, np.float32),
    }
    origins = find_origins(initializers, parameters)
    assert origins.keys() == initializers.keys() - {"constant"}
    cotangents = {name: RNG.normal(size=value.shape) for name, value in initializers.items()}
    pulled = pull_back(origins, cotangents, shapes)
    assert {name: gradient.shape for name, gradient in pulled.items()} == shapes
    # Each initializer is linear in its parameters, so both pairings are the same number.
    ahead = sum(float((initializers[name] * cotangents[name]).sum()) for name in origins)
    assert sum(float((parameters[n] * g).sum()) for n, g in pulled.items()) == pytest.approx(ahead, rel=1e-5)
    np.testing.assert_array_equal(pulled["w"], cotangents["w.T"].T)
    input_gate, output_gate, forget_gate, cell = cotangents["B"].reshape(2, 4, 2)[0]
    np.testing.assert_array_equal(pulled["bias_ih_l0"], np.concatenate([input_gate, forget_gate, cell, output_gate]))


def test_parameter_without_initializer() -> None:
    with pytest.raises(ValueError, match="lost"):
        find_origins({"kept": np.ones(2, np.float32)}, {"kept": np.ones(2, np.float32), "lost": np.ones(3, np.float32)})
