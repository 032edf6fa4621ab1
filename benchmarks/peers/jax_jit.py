"""JAX: the perceptrons and transformers written in jax.numpy, with PyTorch's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..files import WorkloadFiles
from .peer import LEARNING_RATE, Peer

Weights = dict[str, jax.Array]
HEADS, BLOCKS = 8, 4


class Jax(Peer):
    packages = ("jax", "jaxlib")

    def load(self) -> None:
        forward = _MODELS[self.files.name]
        self._weights = {name: jnp.asarray(w) for name, w in self.files.weights().items()}
        (inputs,) = self.files.inputs().values()
        self._inputs, self._labels = jnp.asarray(inputs), jnp.asarray(self.files.labels())

        def loss(weights: Weights, inputs: jax.Array, labels: jax.Array) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(forward(weights, inputs), labels).mean()

        optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.01)
        self._optimizer = optimizer

        def train(weights: Weights, state: optax.OptState, inputs: jax.Array, labels: jax.Array):
            gradients = jax.grad(loss)(weights, inputs, labels)
            updates, state = optimizer.update(gradients, state, weights)
            return optax.apply_updates(weights, updates), state

        self._forward = jax.jit(forward)
        self._step = jax.jit(jax.value_and_grad(loss)).lower(self._weights, self._inputs, self._labels).compile()
        self._train = jax.jit(train, donate_argnums=(0, 1))
        self._training: tuple[Weights, optax.OptState] | None = None

    def operations(self) -> Mapping[str, Callable[[], object]]:
        return {
            "forward": lambda: jax.block_until_ready(self._forward(self._weights, self._inputs)),
            "step": lambda: jax.block_until_ready(self._step(self._weights, self._inputs, self._labels)),
            "train": self._train_once,
        }

    def gradients(self) -> Mapping[str, np.ndarray]:
        return {name: np.asarray(g) for name, g in self._step(self._weights, self._inputs, self._labels)[1].items()}

    def _train_once(self) -> None:
        if self._training is None:
            weights = {name: jnp.array(w, copy=True) for name, w in self._weights.items()}
            self._training = weights, self._optimizer.init(weights)
        self._training = jax.block_until_ready(self._train(*self._training, self._inputs, self._labels))


def _linear(w: Weights, name: str, x: jax.Array) -> jax.Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: Weights, name: str, x: jax.Array) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attention(w: Weights, name: str, x: jax.Array, *, causal: bool) -> jax.Array:
    n, t, d = x.shape
    q, k, v = (_linear(w, f"{name}.{part}", x).reshape(n, t, HEADS, -1) for part in ("query", "key", "value"))
    return _linear(w, f"{name}.out", jax.nn.dot_product_attention(q, k, v, is_causal=causal).reshape(n, t, d))


def _perceptron(w: Weights, name: str, x: jax.Array) -> jax.Array:
    return _linear(w, f"{name}.down", jax.nn.gelu(_linear(w, f"{name}.up", x), approximate=False))


def _mlp(w: Weights, x: jax.Array) -> jax.Array:
    layers = sorted({name.split(".")[0] for name in w})
    for layer in layers[:-1]:
        x = jax.nn.relu(_linear(w, layer, x))
    return _linear(w, layers[-1], x)


def _bert(w: Weights, ids: jax.Array) -> jax.Array:
    x = _norm(w, "norm", w["tokens.weight"][ids] + w["positions.weight"][: ids.shape[1]])
    for i in range(BLOCKS):
        x = _norm(w, f"blocks.{i}.norm1", x + _attention(w, f"blocks.{i}.attention", x, causal=False))
        x = _norm(w, f"blocks.{i}.norm2", x + _perceptron(w, f"blocks.{i}", x))
    return _linear(w, "head", jnp.tanh(_linear(w, "pooler", x[:, 0])))


def _gpt2(w: Weights, ids: jax.Array) -> jax.Array:
    x = w["tokens.weight"][ids] + w["positions.weight"][: ids.shape[1]]
    for i in range(BLOCKS):
        x = x + _attention(w, f"blocks.{i}.attention", _norm(w, f"blocks.{i}.norm1", x), causal=True)
        x = x + _perceptron(w, f"blocks.{i}", _norm(w, f"blocks.{i}.norm2", x))
    logits = _norm(w, "norm", x) @ w["tokens.weight"].T
    return logits.reshape(-1, logits.shape[-1])


_MODELS = {"mlp": _mlp, "mlp-small": _mlp, "bert": _bert, "gpt2": _gpt2}


def peer(files: WorkloadFiles, threads: int) -> Peer:
    return Jax(files, threads)
