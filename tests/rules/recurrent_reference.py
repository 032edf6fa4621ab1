"""RNN, GRU and LSTM step by step, as the equations of the ONNX specification (opset 22) say.

The oracle of values and, by autograd, of gradients: the operators of `onnx.reference.ReferenceEvaluator` have no
sequence_lens, clip, input_forget or other activations than the default ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

States = tuple[torch.Tensor, ...]
Step = Callable[[torch.Tensor, States], States]
Function = Callable[[torch.Tensor], torch.Tensor]


def lstm(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    initial_c: torch.Tensor | None = None,
    p: torch.Tensor | None = None,
    **attributes: Any,
) -> list[torch.Tensor]:
    """Y, Y_h and Y_c of an LSTM."""

    def cell(weights: Weights, f: Function, g: Function, h: Function) -> Step:
        wb, rb = weights.biases(4)
        peepholes = torch.zeros(3 * weights.hidden, dtype=x.dtype) if weights.p is None else weights.p
        pi, po, pf = peepholes.chunk(3)

        def step(xt: torch.Tensor, states: States) -> States:
            before, cell = states
            i, o, f_, c = (xt @ weights.w.T + before @ weights.r.T + wb + rb).chunk(4, -1)
            i = f(i + pi * cell)
            forget = 1 - i if attributes.get("input_forget") else f(f_ + pf * cell)
            cell = forget * cell + i * g(c)
            return f(o + po * cell) * h(cell), cell

        return step

    activations = _activations(attributes, ["Sigmoid", "Tanh", "Tanh"], unclipped=(2,))
    return _run(cell, activations, attributes, x, (w, r, b, p), lengths, (initial_h, initial_c))


def gru(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    **attributes: Any,
) -> list[torch.Tensor]:
    """Y and Y_h of a GRU."""

    def cell(weights: Weights, f: Function, g: Function) -> Step:
        (wb_z, wb_r, wb_h), (rb_z, rb_r, rb_h) = (bias.chunk(3) for bias in weights.biases(3))
        (wz, wr, wh), (rz, rr, rh) = weights.w.chunk(3), weights.r.chunk(3)

        def step(xt: torch.Tensor, states: States) -> States:
            (before,) = states
            z = f(xt @ wz.T + before @ rz.T + wb_z + rb_z)
            reset = f(xt @ wr.T + before @ rr.T + wb_r + rb_r)
            if attributes.get("linear_before_reset"):
                new = g(xt @ wh.T + reset * (before @ rh.T + rb_h) + wb_h)
            else:
                new = g(xt @ wh.T + (reset * before) @ rh.T + rb_h + wb_h)
            return ((1 - z) * new + z * before,)

        return step

    activations = _activations(attributes, ["Sigmoid", "Tanh"])
    return _run(cell, activations, attributes, x, (w, r, b, None), lengths, (initial_h,))


def rnn(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    initial_h: torch.Tensor | None = None,
    **attributes: Any,
) -> list[torch.Tensor]:
    """Y and Y_h of a simple RNN."""

    def cell(weights: Weights, f: Function) -> Step:
        wb, rb = weights.biases(1)
        return lambda xt, states: (f(xt @ weights.w.T + states[0] @ weights.r.T + wb + rb),)

    activations = _activations(attributes, ["Tanh"])
    return _run(cell, activations, attributes, x, (w, r, b, None), lengths, (initial_h,))


class Weights:
    """Those of one direction."""

    def __init__(self, w: torch.Tensor, r: torch.Tensor, b: torch.Tensor | None, p: torch.Tensor | None) -> None:
        self.w, self.r, self.b, self.p, self.hidden = w, r, b, p, r.shape[-1]

    def biases(self, gates: int) -> Sequence[torch.Tensor]:
        """That of W and that of R."""
        return torch.zeros(2, gates * self.hidden, dtype=self.w.dtype) if self.b is None else self.b.chunk(2)


def _run(
    cell: Callable[..., Step],
    activations: Sequence[Sequence[Function]],
    attributes: dict[str, Any],
    x: torch.Tensor,
    parameters: Sequence[torch.Tensor | None],
    lengths: torch.Tensor | None,
    initial: Sequence[torch.Tensor | None],
) -> list[torch.Tensor]:
    """Each sequence for itself, in each direction, over the steps that are valid."""
    batch_first, direction = attributes.get("layout"), attributes.get("direction") or "forward"
    if batch_first:
        x = x.transpose(0, 1)
        initial = [None if state is None else state.transpose(0, 1) for state in initial]
    steps, batch, _ = x.shape
    ends = [steps] * batch if lengths is None else lengths.tolist()
    reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    ys, finals = [], []
    for d, reverse in enumerate(reverses):
        weights = Weights(*(None if each is None else each[d] for each in parameters))  # type: ignore[arg-type]
        step = cell(weights, *activations[d])
        rows = []
        for row, end in enumerate(ends):
            zeros = torch.zeros(weights.hidden, dtype=x.dtype)
            states = tuple(zeros if state is None else state[d, row] for state in initial)
            outputs = [zeros] * steps
            for t in reversed(range(end)) if reverse else range(end):
                states = step(x[t, row], states)
                outputs[t] = states[0]
            rows.append((torch.stack(outputs), *states))
        y, *last = (torch.stack(each, -2) for each in zip(*rows, strict=True))
        ys.append(y)
        finals.append(last)
    y = torch.stack(ys, 1)
    states = tuple(torch.stack(each) for each in zip(*finals, strict=True))
    if batch_first:
        return [y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in states)]
    return [y, *states]


def _activations(
    attributes: dict[str, Any], default: Sequence[str], unclipped: Sequence[int] = ()
) -> list[list[Function]]:
    """The functions of each direction; those that need an alpha or a beta take the next of the list."""
    count = len(default)
    names = attributes.get("activations") or list(default) * 2
    alphas, betas = iter(attributes.get("activation_alpha") or []), iter(attributes.get("activation_beta") or [])
    functions = [_activation(name, alphas, betas) for name in names]
    clip = attributes.get("clip")
    if clip:
        functions = [
            each if index % count in unclipped else _clipped(each, clip) for index, each in enumerate(functions)
        ]
    return [functions[start : start + count] for start in range(0, len(functions), count)]


def _clipped(function: Function, clip: float) -> Function:
    return lambda x: function(x.clamp(-clip, clip))


def _activation(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Function:
    match name:
        case "Relu":
            return torch.relu
        case "Tanh":
            return torch.tanh
        case "Sigmoid":
            return torch.sigmoid
        case "Softsign":
            return F.softsign
        case "Softplus":
            return F.softplus
        case "LeakyRelu":
            alpha = next(alphas, _single(0.01))
            return lambda x: F.leaky_relu(x, alpha)
        case "ThresholdedRelu":
            alpha = next(alphas, 1.0)
            return lambda x: F.threshold(x, alpha, 0.0)
        case "Elu":
            alpha = next(alphas, 1.0)
            return lambda x: F.elu(x, alpha)
        case "Affine":
            alpha, beta = next(alphas, 1.0), next(betas, 0.0)
            return lambda x: alpha * x + beta
        case "ScaledTanh":
            alpha, beta = next(alphas, 1.0), next(betas, 1.0)
            return lambda x: alpha * torch.tanh(beta * x)
        case "HardSigmoid":
            alpha, beta = next(alphas, _single(0.2)), next(betas, 0.5)
            return lambda x: F.hardtanh(alpha * x + beta, 0.0, 1.0)
    raise ValueError(name)


def _single(value: float) -> float:
    """An attribute's default, which is given in float32."""
    return float(np.float32(value))
