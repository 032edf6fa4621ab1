"""Blocks of transformers, as exporters write them; activations are (batch, length, width)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from .drawing import Drawing
from .image_blocks import activation

Sequence = tuple[str, int, int]
"""The name of a value, its length and width."""


def linear(d: Drawing, x: str, inner: int, outer: int, *, bias: bool = True) -> str:
    """By a weight as PyTorch keeps it, which is transposed first, or by its transpose."""
    if d.draw(st.booleans()):
        y = d.emit("MatMul", x, d.weight(inner, outer))
    else:
        y = d.emit("MatMul", x, d.emit("Transpose", d.weight(outer, inner), perm=[1, 0]))
    return d.emit("Add", y, d.weight(outer, mean=0.1)) if bias else y


def attention(d: Drawing, x: Sequence) -> Sequence:
    name, length, width = x
    heads = d.choose(*(h for h in (1, 2, 4) if width % h == 0))
    size = width // heads
    # The bias of the keys has no gradient but rounding: a softmax does not change when all scores do.
    query, key, value = (linear(d, name, width, width, bias=biased) for biased in (True, False, True))
    query, key, value = (d.emit("Reshape", each, d.ints(0, length, heads, size)) for each in (query, key, value))
    query, value = (d.emit("Transpose", each, perm=[0, 2, 1, 3]) for each in (query, value))
    if d.draw(st.booleans()):
        key = d.emit("Transpose", key, perm=[0, 2, 3, 1])
    else:
        key = d.emit("Transpose", d.emit("Transpose", key, perm=[0, 2, 1, 3]), perm=[0, 1, 3, 2])
    scale = math.sqrt(size)
    if d.draw(st.booleans()):
        scores = d.emit("Div", d.emit("MatMul", query, key), d.constant(scale))
    else:
        query, key = (d.emit("Mul", each, d.constant(1 / math.sqrt(scale))) for each in (query, key))
        scores = d.emit("MatMul", query, key)
    if d.draw(st.booleans()):
        scores = d.emit("Add", scores, d.constant(np.triu(np.full((length, length), -1e4), 1)))
    mixed = d.emit("MatMul", d.emit("Softmax", scores, axis=-1), value)
    joined = d.emit("Reshape", d.emit("Transpose", mixed, perm=[0, 2, 1, 3]), d.ints(0, length, width))
    return d.emit("Add", name, linear(d, joined, width, width)), length, width


def perceptron(d: Drawing, x: Sequence) -> Sequence:
    name, length, width = x
    inner = d.draw(st.integers(2, 9))
    hidden = activation(d, linear(d, name, width, inner))
    return d.emit("Add", name, linear(d, hidden, inner, width)), length, width


def layer_norm(d: Drawing, x: Sequence) -> Sequence:
    """The operator, or what stood for it before there was one."""
    name, length, width = x
    scale, bias = d.weight(width, mean=1.0), d.weight(width, mean=0.1)
    if d.draw(st.booleans()):
        return d.emit("LayerNormalization", name, scale, bias, epsilon=1e-3), length, width
    last = d.ints(-1)
    centered = d.emit("Sub", name, d.emit("ReduceMean", name, last))
    variance = d.emit("ReduceMean", d.emit("Pow", centered, d.constant(2.0)), last)
    deviation = d.emit("Sqrt", d.emit("Add", variance, d.constant(1e-3)))
    return d.emit("Add", d.emit("Mul", d.emit("Div", centered, deviation), scale), bias), length, width


def rms_norm(d: Drawing, x: Sequence) -> Sequence:
    name, length, width = x
    mean = d.emit("ReduceMean", d.emit("Mul", name, name), d.ints(-1))
    inverse = d.emit("Reciprocal", d.emit("Sqrt", d.emit("Add", mean, d.constant(1e-3))))
    return d.emit("Mul", d.weight(width, mean=1.0), d.emit("Mul", name, inverse)), length, width


def mixing(d: Drawing, x: Sequence) -> Sequence:
    """A product along the length (arXiv:2105.01601)."""
    name, length, width = x
    outer = d.draw(st.integers(1, 5))
    turned = d.emit("Transpose", name, perm=[0, 2, 1])
    return d.emit("Transpose", linear(d, turned, length, outer), perm=[0, 2, 1]), outer, width


def class_token(d: Drawing, x: Sequence) -> Sequence:
    name, length, width = x
    shape = d.emit("Concat", d.emit("Shape", name, start=0, end=1), d.ints(1, width), axis=0)
    token = d.emit("Expand", d.weight(1, 1, width), shape)
    return d.emit("Concat", token, name, axis=1), length + 1, width


def shortened(d: Drawing, x: Sequence) -> Sequence:
    name, length, width = x
    start = d.draw(st.integers(0, length - 1))
    step = d.choose(1, 1, 2)
    return (
        d.emit("Slice", name, d.ints(start), d.ints(length), d.ints(1), d.ints(step)),
        -(-(length - start) // step),
        width,
    )


def gated(d: Drawing, x: Sequence) -> Sequence:
    """One half of a product times a function of the other (arXiv:2002.05202)."""
    name, length, width = x
    a, b = d.emit("Split", linear(d, name, width, 2 * width), outputs=2, axis=-1, num_outputs=2)
    return d.emit("Mul", activation(d, a), b), length, width


BLOCKS: tuple[Callable[[Drawing, Sequence], Sequence], ...] = (
    attention,
    attention,
    perceptron,
    layer_norm,
    layer_norm,
    rms_norm,
    mixing,
    class_token,
    shortened,
    gated,
)
