"""The rule of LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..broadcasting import sum_leading
from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .recurrent import INITIAL_C, INITIAL_H, B, Gradients, Layer, P, R, W, X
from .recurrent_scans import Direction, Iteration, Run, cut, sum_of_products

rules = Registry()


@rules.vjp("LSTM", inputs=(X, W, R, B, INITIAL_H, INITIAL_C, P))
def lstm(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """dc += k dh, da = (kᵢ dc, kₒ dh, k_f dc, k_g dc), dh₋ = da R, dc₋ = m dc: a linear recurrence over reversed time.

    Here a are the pre-activations of the gates i, o, f and g, in the order of W, of h = o φ(c) and c = f c₋ + i g, and
    kₒ = φ(c) o', kᵢ = g i', k_f = c₋ f', k_g = i g', k = o φ'(c) + pₒ kₒ, m = f + pᵢ kᵢ + p_f k_f, with peepholes p.
    Where the gates are coupled (input_forget), f = 1 - i, so that kᵢ = (g - c₋) i' and k_f = 0. As in ONNX Runtime,
    `clip` bounds the pre-activations of the gates, but not c. Then dX = da W, dW = Σ daᵀ X, dR = Σ daᵀ h₋, dB = Σ da,
    and dP = Σ da c₋, with c for the output gate.
    """
    layer = Layer(
        n,
        dys,
        gates=4,
        states=(INITIAL_H, INITIAL_C),
        defaults=("Sigmoid", "Tanh", "Tanh"),
        clipped=(True, True, False),
    )
    coupled = bool(n.attr("input_forget", 0))
    runs = layer.run(partial(_forward, coupled=coupled))
    return layer.cotangents([_backward(direction, run, coupled) for direction, run in runs])


def _forward(d: Direction, *, coupled: bool) -> Run:
    """The step of the equations; it keeps what the activations' derivatives follow from, and f c₋."""
    gate, candidate, squash = d.activations
    peepholes = None if d.peepholes is None else cut(d.peepholes, 3)

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        hidden, cell = states
        ai, ao, af, ag = cut(body.Gemm(hidden, body.tensor(d.r.value), slices[0], transB=1), 4)
        if peepholes is not None:
            pi, po, pf = (body.tensor(p.value) for p in peepholes)
            ai, af = ai + pi * cell, af + pf * cell
        i, g = gate(ai), candidate(ag)
        f = 1 - i if coupled else gate(af)
        remembered = f * cell
        cell = remembered + i * g
        if peepholes is not None:
            ao = ao + po * cell
        o, squashed = gate(ao), squash(cell)
        kept = [
            gate.keep(ai, i),
            gate.keep(ao, o),
            gate.keep(af, f),
            candidate.keep(ag, g),
            squash.keep(cell, squashed),
        ]
        return [o * squashed, cell], [*kept, remembered]

    bias = None if d.biases is None else d.biases[0] + d.biases[1]
    return d.forward([d.times_w(bias)], step)


def _backward(d: Direction, run: Run, coupled: bool) -> Gradients:
    op = d.op
    gate, candidate, squash = d.activations
    hidden_before, cell_before = (d.before(*pair) for pair in zip(d.initial, run.states, strict=True))
    hidden, cell = run.states
    *kept, remembered = run.kept
    i, o, f, g, squashed = (each.again(k) for each, k in zip((gate, gate, gate, candidate, squash), kept, strict=True))
    f = 1 - i if coupled else f
    at_i, at_o, at_f, at_g, at_cell = kept

    learned = i * g
    ki = gate.pull_back(at_i, i, g - cell_before) if coupled else gate.pull_back(at_i, i, g, learned)
    ko = gate.pull_back(at_o, o, squashed, hidden)
    kf = op.zeros_like(f) if coupled else gate.pull_back(at_f, f, cell_before, remembered)
    kg = candidate.pull_back(at_g, g, i, learned)
    to_cell, keep = squash.pull_back(at_cell, squashed, o, hidden), f
    if d.peepholes is not None:
        pi, po, pf = cut(d.peepholes, 3)
        to_cell, keep = to_cell + po * ko, f + pi * ki + pf * kf
    to_gates = [d.where_valid(k, 0) for k in (ki, ko, kf, kg)]

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        dh, dc = states
        to_cell, keep, ki, ko, kf, kg = slices
        dc = dc + to_cell * dh
        da = body.Concat(ki * dc, ko * dh, kf * dc, kg * dc, axis=-1)
        return [da @ body.tensor(d.r.value), keep * dc], [da]

    (dh, dc), (da,) = d.backward([to_cell, keep, *to_gates], step)

    def db() -> Tensor:
        total = sum_leading(da, 2)
        return op.Concat(total, total, axis=0)

    def dp() -> Tensor:
        di, do, df, _ = cut(da, 4)
        return sum_leading(op.Concat(di * cell_before, do * cell, df * cell_before, axis=-1), 2)

    return {
        X: lambda: da @ d.w,
        W: lambda: sum_of_products(da, d.x),
        R: lambda: sum_of_products(da, hidden_before),
        B: db,
        P: dp,
        INITIAL_H: lambda: dh,
        INITIAL_C: lambda: dc,
    }
