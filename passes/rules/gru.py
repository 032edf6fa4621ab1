"""The rule of GRU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..broadcasting import sum_leading
from ..registry import Cotangent, Primal, Registry
from ..tape import Tape, Tensor
from .recurrent import INITIAL_H, B, Gradients, Layer, R, W, X
from .recurrent_scans import Direction, Iteration, Run, cut, sum_of_products

rules = Registry()


@rules.vjp("GRU", inputs=(X, W, R, B, INITIAL_H))
def gru(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """da = (k_z dh, k_r ds, kₙ dh), dh₋ = z dh + r ds + (da_z, da_r) (R_z, R_r), ds = daₙ Rₙ, over reversed time.

    Here a are the pre-activations of z, r and n, in the order of W, of h = (1 - z) n + z h₋, where n reads s = r h₋ by
    Rₙ; and k_z = (h₋ - n) z', k_r = h₋ r', kₙ = (1 - z) n'. Where n reads r q, q = Rₙ h₋ + bias (linear_before_reset),
    da_r = kₙ q r' dh and dh₋ = z dh + (da_z, da_r, r daₙ) R. Then dX = da W, dW = Σ daᵀ X, and so on for R and B.
    """
    layer = Layer(n, dys, gates=3, states=(INITIAL_H,), defaults=("Sigmoid", "Tanh"), clipped=(True, True))
    linear = bool(n.attr("linear_before_reset", 0))
    runs = layer.run(partial(_forward, linear=linear))
    backward = _backward_linear if linear else _backward
    return layer.cotangents([backward(direction, run) for direction, run in runs])


def _forward(d: Direction, *, linear: bool) -> Run:
    """The step; it keeps what the activations' derivatives follow from, and the q of linear_before_reset."""
    gate, candidate = d.activations
    bias, r_bias = d.biases or (None, None)
    if bias is not None and r_bias is not None and not linear:
        bias, r_bias = bias + r_bias, None
    r_gates, r_new = _gates_and_new(d.r, axis=0)

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        (hidden,) = states
        x_gates, x_new = _gates_and_new(slices[0], axis=-1)
        if linear:
            b = None if r_bias is None else body.tensor(r_bias.value)
            product = body.Gemm(hidden, body.tensor(d.r.value), b, transB=1)
            h_gates, q = _gates_and_new(product, axis=-1)
            az, ar = cut(x_gates + h_gates, 2)
            r = gate(ar)
            an = x_new + r * q
        else:
            az, ar = cut(body.Gemm(hidden, body.tensor(r_gates.value), x_gates, transB=1), 2)
            r = gate(ar)
            an = body.Gemm(r * hidden, body.tensor(r_new.value), x_new, transB=1)
        z, new = gate(az), candidate(an)
        kept = [gate.keep(az, z), gate.keep(ar, r), candidate.keep(an, new)]
        return [(1 - z) * new + z * hidden], [*kept, q] if linear else kept

    return d.forward([d.times_w(bias)], step)


def _backward(d: Direction, run: Run) -> Gradients:
    op = d.op
    gate, candidate = d.activations
    at_z, at_r, at_new = run.kept
    z, r, new = gate.again(at_z), gate.again(at_r), candidate.again(at_new)
    before = d.before(d.initial[0], run.states[0])
    reset = r * before
    kz = gate.pull_back(at_z, z, before - new)
    kr = gate.pull_back(at_r, r, before, reset)
    kn = d.where_valid(candidate.pull_back(at_new, new, 1 - z), 0)
    to_gates = d.where_valid(op.Concat(kz, kr, axis=-1), 0)
    r_gates, r_new = _gates_and_new(d.r, axis=0)

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        (dh,) = states
        to_gates, kn, z, r = slices
        dan = dh * kn
        ds = dan @ body.tensor(r_new.value)
        dgates = body.Concat(dh, ds, axis=-1) * to_gates
        return [z * dh + r * ds + dgates @ body.tensor(r_gates.value)], [dgates, dan]

    (dh,), (dgates, dan) = d.backward([to_gates, kn, z, r], step)
    da = op.Concat(dgates, dan, axis=-1)

    def dr() -> Tensor:
        return op.Concat(sum_of_products(dgates, before), sum_of_products(dan, reset), axis=0)

    def db() -> Tensor:
        total = sum_leading(da, 2)
        return op.Concat(total, total, axis=0)

    return {X: lambda: da @ d.w, W: lambda: sum_of_products(da, d.x), R: dr, B: db, INITIAL_H: lambda: dh}


def _backward_linear(d: Direction, run: Run) -> Gradients:
    op = d.op
    gate, candidate = d.activations
    at_z, at_r, at_new, q = run.kept
    z, r, new = gate.again(at_z), gate.again(at_r), candidate.again(at_new)
    before = d.before(d.initial[0], run.states[0])
    kz = gate.pull_back(at_z, z, before - new)
    kn = candidate.pull_back(at_new, new, 1 - z)
    kr = gate.pull_back(at_r, r, kn * q)
    to_products = d.where_valid(op.Concat(kz, kr, kn * r, axis=-1), 0)

    def step(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
        (dh,) = states
        to_products, z = slices
        dproducts = body.Concat(dh, dh, dh, axis=-1) * to_products
        return [z * dh + dproducts @ body.tensor(d.r.value)], [dproducts, dh]

    (dh,), (dproducts, dhs) = d.backward([to_products, z], step)
    dgates, _ = _gates_and_new(dproducts, axis=-1)
    da = op.Concat(dgates, dhs * d.where_valid(kn, 0), axis=-1)

    return {
        X: lambda: da @ d.w,
        W: lambda: sum_of_products(da, d.x),
        R: lambda: sum_of_products(dproducts, before),
        B: lambda: op.Concat(sum_leading(da, 2), sum_leading(dproducts, 2), axis=0),
        INITIAL_H: lambda: dh,
    }


def _gates_and_new(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The first two thirds of *x* along *axis*, which are those of z and r, and the last."""
    size = x.shape[axis]
    assert isinstance(size, int)
    return x.op.emit_many("Split", x, x.op.ints([size // 3 * 2, size // 3]), outputs=2, axis=axis)
