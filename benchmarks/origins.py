"""Which parameter an initializer of an export was made of, so that gradients of either can be compared.

The exporter renames, transposes, reshapes and expands parameters, and stacks the biases of recurrent layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Origins = dict[str, tuple[str, list[str]]]
"""By initializer: its form, and the parameters it was made of."""


def find_origins(initializers: Mapping[str, np.ndarray], parameters: Mapping[str, np.ndarray]) -> Origins:
    """Match initializers with parameters by name, else by value.

    Raises ValueError if a parameter is in no initializer, because its gradient would go unchecked.
    """
    origins: Origins = {name: ("same", [name]) for name in parameters if name in initializers}
    left = {name: value for name, value in parameters.items() if name not in origins}
    for name, value in initializers.items():
        if name not in origins and value.dtype == np.float32 and value.size > 1:
            origin = _origin(value, left)
            if origin is not None:
                origins[name] = origin
    reached = {source for _, sources in origins.values() for source in sources}
    if missing := parameters.keys() - reached:
        raise ValueError(f"No initializer is made of {sorted(missing)}")
    return origins


def pull_back(
    origins: Origins, gradients: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The gradients of the parameters, which have *shapes*, from those of the initializers."""
    pulled: dict[str, np.ndarray] = {}
    for name, (form, sources) in origins.items():
        gradient = np.asarray(gradients[name])
        if form == "transposed":
            parts = [gradient.T]
        elif form == "expanded":
            axes = tuple(i for i, size in enumerate(shapes[sources[0]]) if size != gradient.shape[i])
            parts = [gradient.sum(axis=axes, keepdims=True)]
        elif form == "gates":
            parts = [_from_onnx_gates(half) for half in np.split(gradient.reshape(-1), 2)]
        else:
            parts = [gradient.reshape(shapes[sources[0]])]
        for source, part in zip(sources, parts, strict=True):
            pulled[source] = pulled[source] + part if source in pulled else part
    return pulled


def _origin(value: np.ndarray, parameters: Mapping[str, np.ndarray]) -> tuple[str, list[str]] | None:
    for name, parameter in parameters.items():
        if parameter.size == value.size and np.array_equal(parameter.reshape(-1), value.reshape(-1)):
            return "reshaped", [name]
        if parameter.ndim == 2 and np.array_equal(parameter.T, value):
            return "transposed", [name]
        if _expands(parameter.shape, value.shape) and np.array_equal(np.broadcast_to(parameter, value.shape), value):
            return "expanded", [name]
        other = name.replace("bias_ih", "bias_hh")
        if other != name and 2 * parameter.size == value.size:
            stacked = np.concatenate([_to_onnx_gates(parameter), _to_onnx_gates(parameters[other])])
            if np.array_equal(stacked, value.reshape(-1)):
                return "gates", [name, other]
    return None


def _expands(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) == len(to) and all(size in (wider, 1) for size, wider in zip(shape, to, strict=True))


def _to_onnx_gates(bias: np.ndarray) -> np.ndarray:
    """PyTorch orders the gates of an LSTM input, forget, cell, output; ONNX input, output, forget, cell."""
    i, f, g, o = np.split(bias, 4)
    return np.concatenate([i, o, f, g])


def _from_onnx_gates(bias: np.ndarray) -> np.ndarray:
    i, o, f, g = np.split(bias, 4)
    return np.concatenate([i, f, g, o])
