"""The rule of RNN."""

from __future__ import annotations

from collections.abc import Sequence

from ..broadcasting import sum_leading
from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .recurrent import INITIAL_H, B, Gradients, Layer, R, W, X
from .recurrent_scans import Direction, Iteration, Run, sum_of_products

rules = Registry()


@rules.vjp("RNN", inputs=(X, W, R, B, INITIAL_H))
def rnn(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """da = f'(a) dh, dh₋ = da R, over reversed time, of h = f(a); dX = da W, dW = Σ daᵀ X, dR = Σ daᵀ h₋, dB = Σ da."""
    layer = Layer(n, dys, gates=1, states=(INITIAL_H,), defaults=("Tanh",), clipped=(True,))
    return layer.cotangents([_backward(direction, run) for direction, run in layer.run(_forward)])


def _forward(d: Direction) -> Run:
    """The step of the equations; it keeps the pre-activation, if the derivative does not follow from the state."""
    (function,) = d.activations

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        a = body.Gemm(states[0], body.tensor(d.r.value), slices[0], transB=1)
        return [function(a)], [] if function.by_its_value else [a]

    bias = None if d.biases is None else d.biases[0] + d.biases[1]
    return d.forward([d.times_w(bias)], step)


def _backward(d: Direction, run: Run) -> Gradients:
    op = d.op
    (function,) = d.activations
    (kept,) = run.states if function.by_its_value else run.kept
    value = function.again(kept)
    hidden_before = d.before(d.initial[0], run.states[0])
    slope = d.where_valid(function.pull_back(kept, value, op.full_like(value, 1), value), 0)

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        da = states[0] * slices[0]
        return [da @ body.tensor(d.r.value)], [da]

    (dh,), (da,) = d.backward([slope], step)

    def db() -> Tensor:
        total = sum_leading(da, 2)
        return op.Concat(total, total, axis=0)

    return {
        X: lambda: da @ d.w,
        W: lambda: sum_of_products(da, d.x),
        R: lambda: sum_of_products(da, hidden_before),
        B: db,
        INITIAL_H: lambda: dh,
    }
