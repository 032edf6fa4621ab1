"""Sequences whose lengths only the data decide: the cotangent of a sequence is a sequence of cotangents.

Where the elements are known one by one, `passes/unroll_sequences.py` has made tensors of them before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import onnx_ir as ir

from ..activity import find_activity
from ..differentiate import differentiate_nodes
from ..registry import Cotangent, Primal, Registry
from ..sequences import map_sequence, zeros_like
from ..tape import Tensor

rules = Registry()

rules.zero("SequenceEmpty", "SequenceLength", reason="its output does not depend on the elements' values")
rules.nondifferentiable(
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    reason="whether this optional has an element is only known when the graph runs; give the graph a tensor instead",
)


@rules.vjp("SequenceConstruct")
def construct(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """Each element has the element of the cotangent."""

    def element(index: int) -> Tensor:
        return n.op.SequenceAt(dy, n.op.constant(index, ir.DataType.INT64))

    return [partial(element, index) for index in range(len(n.inputs))]


@rules.vjp("SequenceAt", inputs=(0,))
def at(n: Primal, dy: Tensor) -> Cotangent:
    """Zeros for all elements but the one that was taken."""
    sequence, position = n.required(0), n.required(1)
    op = n.op

    def cotangent() -> Tensor:
        length = op.SequenceLength(sequence)
        index = op.Where(position < 0, position + length.cast(position.dtype), position)
        others = op.SequenceErase(zeros_like(op, sequence), index)
        return op.SequenceInsert(others, dy, index)

    return cotangent


@rules.vjp("SequenceInsert", inputs=(0, 1))
def insert(n: Primal, dy: Tensor) -> Sequence[Cotangent]:
    """The inserted element has the cotangent at its place, the sequence has the others."""
    op, position = n.op, n.input(2)
    if position is None:
        return lambda: op.SequenceErase(dy), lambda: op.SequenceAt(dy, op.constant(-1, ir.DataType.INT64))
    # A negative position counts from the end of the sequence as it was before.
    length = op.SequenceLength(n.required(0)).cast(position.dtype)
    index = op.Where(position < 0, position + length, position)
    return lambda: op.SequenceErase(dy, index), lambda: op.SequenceAt(dy, index)


@rules.vjp("SequenceErase", inputs=(0,))
def erase(n: Primal, dy: Tensor) -> Cotangent:
    """The erased element has the cotangent zero."""
    op, sequence = n.op, n.required(0)
    position = n.input(1)
    if position is None:
        last = op.constant(-1, ir.DataType.INT64)
        return lambda: op.SequenceInsert(dy, op.zeros_like(op.SequenceAt(sequence, last)))
    length = op.SequenceLength(sequence).cast(position.dtype)
    index = op.Where(position < 0, position + length, position)
    return lambda: op.SequenceInsert(dy, op.zeros_like(op.SequenceAt(sequence, index)), index)


@rules.vjp("SplitToSequence", inputs=(0,))
def split(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangents of the parts are put together."""
    drops_axis = n.input(1) is None and n.attr("keepdims", 1) == 0
    return lambda: n.op.ConcatFromSequence(dy, axis=n.axis(0), new_axis=int(drops_axis))


@rules.vjp("ConcatFromSequence")
def concatenate(n: Primal, dy: Tensor) -> Cotangent:
    """The cotangent is split into parts of the sizes of the elements."""
    op, axis = n.op, n.attr("axis") % dy.rank
    if n.attr("new_axis", 0):
        return lambda: op.SplitToSequence(dy, axis=axis, keepdims=0)

    def cotangent() -> Tensor:
        sizes = map_sequence(op, lambda inner, x: inner.Shape(x, start=axis, end=axis + 1), n.required(0))
        return op.SplitToSequence(dy, op.ConcatFromSequence(sizes, axis=0), axis=axis)

    return cotangent


@rules.vjp("SequenceMap")
def sequence_map(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """The body is run again for each element, and back; cotangents of what all elements share are summed."""
    op = n.op
    body: ir.Graph = n.attr("body").clone(allow_outer_scope_values=True)
    ends, body.outputs[:] = list(body.outputs), []
    inner = op.body(body)
    reads = [*zip(n.inputs, body.inputs, strict=True), *((tensor, tensor.value) for tensor in n.captured)]
    wanted = [(outer, value) for (outer, value), active in zip(reads, n.active, strict=True) if active and outer]
    given = [(end, dy) for end, dy in zip(ends, dys, strict=True) if dy is not None]
    seeds = []
    for end, dy in given:
        shape = None if end.shape is None else inner.tensor(end).shape
        seeds.append((end, inner.argument(f"{end.name}.cotangent", dy.dtype, shape)))
    activity = find_activity(body, [value for _, value in wanted], [end for end, _ in given], n.rules)
    found = differentiate_nodes(inner, activity, n.rules, seeds)
    inner.returns(*(found.get(value) or inner.zeros_like(inner.tensor(value)) for _, value in wanted))
    arguments = [*(tensor for tensor in n.inputs if tensor is not None), *(dy for _, dy in given)]
    results = op.emit_many("SequenceMap", *arguments, outputs=len(wanted), body=body)
    cotangents = {}
    for (outer, value), result in zip(wanted, results, strict=True):
        if isinstance(outer.value.type, ir.SequenceType):
            cotangents[value] = result
        else:
            stacked = op.ConcatFromSequence(result, axis=0, new_axis=1)
            cotangents[value] = op.ReduceSum(stacked, op.ints([0]), keepdims=0)
    return [partial(cotangents.__getitem__, value) if value in cotangents else None for _, value in reads]
