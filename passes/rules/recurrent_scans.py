"""The run of one direction of a recurrent node: a Scan forward over its steps, and one back.

Forward, an iteration is the step of the operator's equations. It keeps the states and the gates, as computing those
again would cost as much as the node itself: the value of a gate whose derivative follows from it, else its
pre-activation. The products with W are those of all steps at once, before the Scan.

Backward, the equations linearized at each step are a linear recurrence in the cotangents of the states. Its
coefficients are computed for all steps at once. What must go step by step is a second Scan, over reversed time, whose
iteration is a few elementwise products and one product with R. It gives the cotangents of the pre-activations; those
of the parameters and of the input are then one product each, over all steps.

Steps past the end of a sequence (`sequence_lens`) hand the states on as they are, in either direction. So the reverse
direction starts each sequence at its own end, and the last states are those of the last valid step; of a sequence of
length 0 they are the initial ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..tape import Tape, Tensor
from .recurrent_activations import Activation
from .sizes import join_sizes, size_of
from .slicing import TO_THE_END

Iteration = tuple[Sequence[Tensor], Sequence[Tensor]]
"""The states after an iteration, and what it keeps."""
Step = Callable[[Tape, Sequence[Tensor], Sequence[Tensor]], Iteration]
"""Emits an iteration in the body of a Scan, of the states before it and its slices of the scanned sequences."""


@dataclass(frozen=True)
class Run:
    """What the forward Scan leaves.

    Attributes:
        states: after each step, (steps, batch, hidden) each, the hidden one first.
        kept: what the steps keep beside them, (steps, batch, …) each.
        finals: the states after the last step, (batch, hidden) each.
    """

    states: Sequence[Tensor]
    kept: Sequence[Tensor]
    finals: Sequence[Tensor]


@dataclass(frozen=True)
class Direction:
    """One direction of a node, time before batch.

    Attributes:
        reverse: whether time runs backwards.
        x: the input, (steps, batch, input size).
        w, r: the weights, (gates · hidden, input size) and (gates · hidden, hidden).
        biases: that of W and that of R, (gates · hidden,) each; None if omitted.
        peepholes: (3 · hidden,); None if omitted.
        initial: the initial states, (batch, hidden) each.
        valid: bool (steps, batch, 1), whether a step is within its sequence; None if all are.
        activations: in the order of the operator's equations.
        dy: the cotangent of the hidden states, (steps, batch, hidden); None if none arrives.
        dfinals: those of the last states, (batch, hidden) each.
    """

    reverse: bool
    x: Tensor
    w: Tensor
    r: Tensor
    biases: tuple[Tensor, ...] | None
    peepholes: Tensor | None
    initial: tuple[Tensor, ...]
    valid: Tensor | None
    activations: Sequence[Activation]
    dy: Tensor | None = None
    dfinals: tuple[Tensor | None, ...] = ()

    @property
    def op(self) -> Tape:
        return self.x.op

    def times_w(self, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias for all steps, (steps, batch, gates · hidden)."""
        flat = self.op.Gemm(rows(self.x), self.w, bias, transB=1)
        return flat.reshape(join_sizes(self.op, [size_of(self.x, 0), size_of(self.x, 1), size_of(self.w, 0)]))

    def forward(self, sequences: Sequence[Tensor], step: Step) -> Run:
        """Scan *step* over *sequences*, (steps, batch, …) each."""
        held = self._hold_where_invalid(step)

        def keep_states(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
            after, kept = held(body, states, slices)
            return after, [*after, *kept]

        finals, stacks = scan(self.initial, self._with_valid(sequences), keep_states, reverse=self.reverse)
        return Run(stacks[: len(finals)], stacks[len(finals) :], finals)

    def backward(self, coefficients: Sequence[Tensor], step: Step) -> Iteration:
        """Scan *step* over *coefficients* in reversed time: the cotangents of the initial states, and what it keeps.

        The states are the cotangents of those after a step, with what arrives at the hidden one in dy.
        """

        def add_arriving(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
            return step(body, [states[0] + slices[0], *states[1:]], slices[1:])

        finals = [
            self.op.zeros_like(state) if dfinal is None else dfinal
            for state, dfinal in zip(self.initial, self.dfinals, strict=True)
        ]
        held = self._hold_where_invalid(step if self.dy is None else add_arriving)
        sequences = coefficients if self.dy is None else [self.dy, *coefficients]
        return scan(finals, self._with_valid(sequences), held, reverse=not self.reverse)

    def _with_valid(self, sequences: Sequence[Tensor]) -> Sequence[Tensor]:
        return sequences if self.valid is None else [self.valid, *sequences]

    def _hold_where_invalid(self, step: Step) -> Step:
        """*step*, but the states stay as they are where it is not valid."""
        if self.valid is None:
            return step

        def held(body: Tape, states: Sequence[Tensor], slices: Sequence[Tensor]) -> Iteration:
            after, kept = step(body, states, slices[1:])
            return [body.Where(slices[0], new, old) for new, old in zip(after, states, strict=True)], kept

        return held

    def where_valid(self, inside: Tensor, outside: float) -> Tensor:
        """*inside*, (steps, batch, …), but *outside* at the steps past the end of a sequence."""
        if self.valid is None:
            return inside
        return self.op.Where(self.valid, inside, self.op.constant(outside, inside.dtype))

    def before(self, initial: Tensor, states: Tensor) -> Tensor:
        """The states before each step, of the *states* after each."""
        op, first = self.op, initial.unsqueeze([0])
        joined = op.Concat(states, first, axis=0) if self.reverse else op.Concat(first, states, axis=0)
        start, end = (1, TO_THE_END) if self.reverse else (0, -1)
        shifted = op.Slice(joined, op.ints([start]), op.ints([end]), op.ints([0]))
        shifted.value.shape = states.value.shape
        return shifted


def scan(initial: Sequence[Tensor], sequences: Sequence[Tensor], step: Step, *, reverse: bool) -> Iteration:
    """A Scan over the first axis: the last states, and what the steps keep, in the order of *sequences*."""
    op = initial[0].op
    body = op.body()
    states = [body.argument("state", each.dtype, each.shape) for each in initial]
    slices = [body.argument("slice", each.dtype, each.shape[1:]) for each in sequences]
    after, kept = step(body, states, slices)
    body.returns(*after, *kept)
    directions: dict[str, Any] = {}
    if reverse:
        directions["scan_input_directions"] = [1] * len(sequences)
        directions["scan_output_directions"] = [1] * len(kept)
    outputs = op.emit_many(
        "Scan",
        *initial,
        *sequences,
        outputs=len(after) + len(kept),
        body=body.graph,
        num_scan_inputs=len(sequences),
        **directions,
    )
    for output, state in zip(outputs, initial, strict=False):
        output.value.shape = state.value.shape
    for output, each in zip(outputs[len(after) :], kept, strict=True):
        output.value.shape = ir.Shape([sequences[0].shape[0], *each.shape])
    return outputs[: len(after)], outputs[len(after) :]


def rows(x: Tensor) -> Tensor:
    """The last axis of *x* as the rows of a matrix."""
    return x.flatten(x.rank - 1)


def sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """aᵀ b, summed over all steps and the batch: how weights get their cotangents."""
    return a.op.Gemm(rows(a), rows(b), transA=1)


def cut(x: Tensor, pieces: int) -> tuple[Tensor, ...]:
    """The last axis of *x* in so many equal *pieces*."""
    return x.op.emit_many("Split", x, outputs=pieces, axis=-1, num_outputs=pieces)
