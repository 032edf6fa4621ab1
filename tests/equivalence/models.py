"""Random small models: convolutional networks, transformers, and those that begin as the one and end as the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from . import image_blocks, sequence_blocks
from .drawing import Drawing, Model

CLASSES = 3


@st.composite
def models(draw: Any) -> Model:
    """A model of some blocks with logits (batch, CLASSES)."""
    data = draw(st.data())
    d = Drawing(data, batch=draw(st.integers(1, 3)))
    kind = d.choose("image", "sequence", "tokens", "patches")
    count = d.draw(st.integers(3, 6))
    if kind in ("image", "patches"):
        channels, height, width = (d.draw(st.integers(low, high)) for low, high in ((1, 4), (3, 9), (3, 9)))
        x = d.normal(d.batch, channels, height, width)
        logits = _images(d, ("x", channels, height, width), count, patches=kind == "patches")
    else:
        length, width = d.draw(st.integers(2, 6)), d.choose(4, 6, 8)
        if kind == "tokens":
            vocabulary = d.draw(st.integers(2, 20))
            x = d.integers(vocabulary, d.batch, length)
            embedded = d.emit("Gather", d.weight(vocabulary, width), "x", axis=0)
            embedded = d.emit("Add", embedded, d.weight(length, width))
        else:
            x, embedded = d.normal(d.batch, length, width), "x"
        logits = _sequences(d, (embedded, length, width), count)
    return d.model(np.asarray(x), logits, (d.batch, CLASSES), symbolic=d.draw(st.booleans()))


def _images(d: Drawing, x: image_blocks.Image, count: int, *, patches: bool) -> str:
    for _ in range(1 if patches else count):
        x = d.choose(*image_blocks.BLOCKS)(d, x)
    name, channels, height, width = x
    if patches:
        flat = d.emit("Reshape", name, d.ints(0, channels, height * width))
        return _sequences(d, (d.emit("Transpose", flat, perm=[0, 2, 1]), height * width, channels), count)
    if d.draw(st.booleans()):
        name, features = d.emit("Flatten", name, axis=1), channels * height * width
    else:
        name, features = d.emit("ReduceMean", name, d.ints(2, 3), keepdims=0), channels
    return d.emit("Gemm", name, d.weight(CLASSES, features), d.weight(CLASSES), transB=1)


def _sequences(d: Drawing, x: sequence_blocks.Sequence, count: int) -> str:
    for _ in range(count):
        x = d.choose(*sequence_blocks.BLOCKS)(d, x)
    name, _, width = x
    first = d.draw(st.booleans())
    pooled = d.emit("Gather", name, d.ints(0), axis=1) if first else d.emit("ReduceMean", name, d.ints(1))
    return sequence_blocks.linear(d, d.emit("Reshape", pooled, d.ints(-1, width)), width, CLASSES)
