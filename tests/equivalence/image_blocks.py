"""Blocks of convolutional networks, as exporters write them; activations are (batch, channels, height, width)."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import strategies as st

from .drawing import Drawing

Image = tuple[str, int, int, int]
"""The name of a value, its channels, height and width."""


def convolution(d: Drawing, x: Image) -> Image:
    name, channels, *sizes = x
    group = d.choose(1, *(g for g in (2, channels) if channels % g == 0))
    kernel = [d.draw(st.integers(1, 3)) for _ in sizes]
    strides, dilations = ([d.choose(1, 1, 2) for _ in sizes] for _ in range(2))
    pads = [d.draw(st.integers(0, 2)) for _ in (*sizes, *sizes)]
    for axis, size in enumerate(sizes):
        if size + pads[axis] + pads[axis + 2] < (kernel[axis] - 1) * dilations[axis] + 1:
            kernel[axis] = 1
    outer = group * d.draw(st.integers(1, 2 if group > 1 else 5))
    weights = [d.weight(outer, channels // group, *kernel), *([d.weight(outer)] if d.draw(st.booleans()) else [])]
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    y = d.emit("Conv", name, *weights, kernel_shape=kernel, **attributes)
    height, width = (
        (size + before + after - (k - 1) * dilation - 1) // stride + 1
        for size, before, after, k, dilation, stride in zip(
            sizes, pads[:2], pads[2:], kernel, dilations, strides, strict=True
        )
    )
    return y, outer, height, width


def transposed_convolution(d: Drawing, x: Image) -> Image:
    name, channels, *sizes = x
    if math.prod(sizes) > 100:
        return x
    outer = d.draw(st.integers(1, 4))
    kernel, strides = [d.draw(st.integers(1, 3)) for _ in sizes], [d.draw(st.integers(1, 2)) for _ in sizes]
    y = d.emit("ConvTranspose", name, d.weight(channels, outer, *kernel), strides=strides)
    height, width = ((size - 1) * stride + k for size, stride, k in zip(sizes, strides, kernel, strict=True))
    return y, outer, height, width


def pooling(d: Drawing, x: Image) -> Image:
    name, channels, *sizes = x
    op_type = d.choose("MaxPool", "AveragePool")
    kernel = [d.draw(st.integers(1, min(3, size))) for size in sizes]
    strides, pads = [d.draw(st.integers(1, 2)) for _ in sizes], [d.draw(st.integers(0, k // 2)) for k in kernel * 2]
    options = {"count_include_pad": d.draw(st.integers(0, 1))} if op_type == "AveragePool" else {}
    y = d.emit(op_type, name, kernel_shape=kernel, strides=strides, pads=pads, **options)
    height, width = (
        (size + before + after - k) // stride + 1
        for size, before, after, k, stride in zip(sizes, pads[:2], pads[2:], kernel, strides, strict=True)
    )
    return y, channels, height, width


def global_pooling_gate(d: Drawing, x: Image) -> Image:
    """Squeeze and excitation (arXiv:1709.01507)."""
    name, channels, *_ = x
    mean = d.emit("ReduceMean", name, d.ints(2, 3)) if d.draw(st.booleans()) else d.emit("GlobalAveragePool", name)
    gate = d.emit("Sigmoid", d.emit("Conv", mean, d.weight(channels, channels, 1, 1)))
    return d.emit("Mul", name, gate), *x[1:]


def group_norm(d: Drawing, x: Image) -> Image:
    """As PyTorch exports it: an InstanceNormalization of each group in one channel."""
    name, channels, height, width = x
    if channels * height * width < 4:
        return x
    groups = d.choose(*(g for g in (1, 2) if channels % g == 0 and channels * height * width // g >= 4))
    scale, bias = d.constant([1.0] * groups), d.constant([0.0] * groups)
    joined = d.emit("Reshape", name, d.ints(0, groups, -1))
    normal = d.emit("InstanceNormalization", joined, scale, bias, epsilon=1e-3)
    apart = d.emit("Reshape", normal, d.emit("Shape", name))
    return affine(d, (apart, channels, height, width))


def affine(d: Drawing, x: Image) -> Image:
    channels = x[1]
    scaled = d.emit("Mul", x[0], d.weight(channels, 1, 1, mean=1.0))
    return d.emit("Add", scaled, d.weight(channels, 1, 1, mean=0.1)), *x[1:]


def batch_norm(d: Drawing, x: Image) -> Image:
    channels = x[1]
    scale, bias, mean = (d.weight(channels, mean=mean) for mean in (1.0, 0.1, 0.2))
    return d.emit("BatchNormalization", x[0], scale, bias, mean, d.weight(channels, mean=1.5)), *x[1:]


def nonlinearity(d: Drawing, x: Image) -> Image:
    return activation(d, x[0]), *x[1:]


def residual(d: Drawing, x: Image) -> Image:
    _, channels, _, _ = x
    branch = d.emit("Conv", x[0], d.weight(channels, channels, 3, 3), pads=[1, 1, 1, 1])
    return d.emit("Add", x[0], activation(d, branch)), *x[1:]


def halves(d: Drawing, x: Image) -> Image:
    """The channels twice, and one half gating the other."""
    name, channels, height, width = x
    both = d.emit("Concat", name, d.emit("Neg", activation(d, name)), axis=1)
    if d.draw(st.booleans()):
        return both, 2 * channels, height, width
    a, b = d.emit("Split", both, outputs=2, axis=1, num_outputs=2)
    return d.emit("Mul", a, d.emit("Sigmoid", b)), channels, height, width


def resized(d: Drawing, x: Image) -> Image:
    name, channels, height, width = x
    if height * width > 100:
        return x
    mode = d.choose("nearest", "linear")
    y = d.emit("Resize", name, "", d.scales(1, 1, 2, 2), mode=mode, coordinate_transformation_mode="half_pixel")
    return y, channels, 2 * height, 2 * width


BLOCKS: tuple[Callable[[Drawing, Image], Image], ...] = (
    convolution,
    convolution,
    transposed_convolution,
    pooling,
    global_pooling_gate,
    group_norm,
    batch_norm,
    affine,
    nonlinearity,
    residual,
    halves,
    resized,
)


def activation(d: Drawing, x: str) -> str:
    """An elementwise function, composed as exporters compose it."""
    kind = d.choose("gelu", "gelu by tanh", "silu", "Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Clip", "gelu")
    if kind == "silu":
        return d.emit("Mul", x, d.emit("Sigmoid", x))
    if kind == "Clip":
        return d.emit("Clip", x, d.constant(0.0), d.constant(6.0))
    if kind == "gelu":
        erf = d.emit("Erf", d.emit("Div", x, d.constant(math.sqrt(2))))
        return d.emit("Mul", d.emit("Mul", x, d.constant(0.5)), d.emit("Add", erf, d.constant(1.0)))
    if kind == "gelu by tanh":
        cubic = d.emit("Mul", d.emit("Pow", x, d.constant(3.0)), d.constant(0.044715))
        inner = d.emit("Mul", d.emit("Add", x, cubic), d.constant(math.sqrt(2 / math.pi)))
        outer = d.emit("Add", d.emit("Tanh", inner), d.constant(1.0))
        return d.emit("Mul", d.emit("Mul", x, d.constant(0.5)), outer)
    return d.emit(kind, x)
