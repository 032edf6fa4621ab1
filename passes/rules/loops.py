"""Scan and Loop: one backward run over the iterations, last to first.

The backward body is the vector-Jacobian product of the forward body. What its rules read of the forward body, the
forward run stacks up in further outputs, one slice an iteration, and the backward run takes the slices off again;
nothing is computed twice. The cotangents of states are states of the backward run. So is the sum of the cotangents of a
value that the body captures (a weight), which therefore is never stacked.

A Scan marked `KEEPS_NOTHING` goes back without stacks: each backward iteration runs the forward body again, on the
slices of the Scan's own inputs.

A Scan goes back as a Scan. A Loop goes back as a Loop of as many iterations as the forward one made, which may be none.
Slices of different sizes cannot be stacked: a Loop whose states change their sizes keeps sequences of them instead, and
what else may change its size within the body, as what a loop in it stacks, is computed again in the backward body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import onnx_ir as ir

from ..activity import BodyActivity, find_body_activity
from ..differentiate import differentiate_nodes
from ..registry import Cotangent, Primal, Registry, already
from ..sequences import add, is_sequence, zeros_like
from ..subgraphs import KEEPS_NOTHING, Iteration, Stack, State, captured_values
from ..tape import Tape, Tensor
from .residuals import draws_random_values, read_from, replace_reads, run_again
from .varying_sizes import find_varying_sizes

rules = Registry()


@rules.vjp(
    "Loop",
    "Scan",
    limits="states that change their size, beside scan outputs or in a loop; sequences that the backward part reads; "
    "random values whose sizes differ between iterations",
)
def loop(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """The cotangents run back through the iterations; those of captured values are summed on the way."""
    iteration = Iteration.of(n.node)
    reads = [*n.node.inputs, *(tensor.value for tensor in n.captured)]
    active = {value for value, wanted in zip(reads, n.active, strict=True) if wanted and value is not None}
    outputs = {output for output, dy in zip(n.node.outputs, dys, strict=True) if dy is not None}
    path = find_body_activity(iteration, active, outputs, n.rules)
    cotangents = _Backward(n, iteration, path, dys).run()
    return [None if value is None else already(cotangents.get(value)) for value in reads]


def _keeps_its_size(state: State) -> bool:
    """Whether the state is known to have one shape in all iterations."""
    start, end = state.at_start.shape, state.at_end.shape
    known = start is not None and all(isinstance(size, int) or size.value is not None for size in start)
    return known and start == end


def _changes_its_size(state: State) -> bool:
    """Whether the state is known to have different shapes."""
    start, end = state.at_start.shape, state.at_end.shape
    if start is None or end is None or len(start) != len(end):
        return False
    pairs = zip(start, end, strict=True)
    return any(a != b and not (isinstance(b, ir.SymbolicDim) and b.value is None) for a, b in pairs)


class _Backward:
    def __init__(self, n: Primal, iteration: Iteration, path: BodyActivity, dys: Sequence[Tensor | None]) -> None:
        self.op: Tape = n.op
        self.inner = n.op.body()
        self.n = n
        self.iteration = iteration
        self.path = path
        self.dys = dys
        self.counts = n.node.op_type == "Loop"
        self.captured = [tensor.value for tensor in n.captured if tensor.value in path.wrt]
        self.read = [stack for stack in iteration.read if stack.slice in path.wrt]
        can_keep_lists = self.counts and not iteration.given and not n.op.is_body
        self.keeps_lists = can_keep_lists and not all(_keeps_its_size(state) for state in iteration.states)
        self.runs_again = KEEPS_NOTHING in n.node.metadata_props and not iteration.states
        self.sources: list[Stack] = []
        """What the backward Scan takes slices of, in the order of its body's inputs."""

    def run(self) -> dict[ir.Value, Tensor]:
        """The cotangents of initial states, scanned inputs and captured values."""
        op, inner, carried = self.op, self.inner, self.path.carried
        if self.counts and not self.keeps_lists and any(_changes_its_size(state) for state in self.iteration.states):
            raise self.n.refuse(
                "its states change their sizes from iteration to iteration, and it has scan outputs or is in a "
                "subgraph, so what the backward part needs cannot be kept; give the states their final sizes at once"
            )
        if self.counts:
            self.trips = self.count_trips()
            passed = inner.argument("iteration", ir.DataType.INT64, [])
            condition = inner.argument("condition", ir.DataType.BOOL, [])
            self.at = inner.tensor(self.trips.value) - 1 - passed
            inner.returns(condition)
        ends = [self.argument(state.at_end) for state in carried]
        sums = [self.argument(value) for value in self.captured]
        seeds = [(state.at_end, end) for state, end in zip(carried, ends, strict=True)]
        for stack in self.iteration.given:
            dy = self.dys[stack.index]
            if dy is not None and stack.slice in self.path.activity.values:
                seeds.append((stack.slice, self.slice(stack, dy)))

        found = differentiate_nodes(inner, self.path.activity, self.n.rules, seeds)
        if self.keeps_lists:
            ends = [inner.tensor(state.at_start) for state in carried]
        starts = [found.get(s.at_start) or zeros_like(inner, end) for s, end in zip(carried, ends, strict=True)]
        totals = [
            total if (part := found.get(value)) is None else add(inner, total, part)
            for value, total in zip(self.captured, sums, strict=True)
        ]
        slices = [found.get(stack.slice) or inner.zeros_like(inner.tensor(stack.slice)) for stack in self.read]
        inner.returns(*starts, *totals, *slices)
        self.hand_over()

        first = [self.dys[index] or zeros_like(op, self.n.outputs[index]) for index in self.finals()]
        first += [zeros_like(op, op.tensor(value)) for value in self.captured]
        results = self.emit(first)
        targets = [state.initial for state in carried] + self.captured + [stack.stacked for stack in self.read]
        cotangents: dict[ir.Value, Tensor] = {}
        for value, result in zip(targets, results, strict=True):
            result.value.shape = value.shape
            cotangents[value] = add(op, cotangents[value], result) if value in cotangents else result
        return cotangents

    def finals(self) -> list[int]:
        """The outputs of the node that carried states leave their last values in."""
        return [self.n.node.outputs.index(state.final) for state in self.path.carried]

    def argument(self, like: ir.Value) -> Tensor:
        tensor = self.inner.tensor(like)
        shape = None if like.shape is None else tensor.shape
        argument = self.inner.argument(f"{like.name}.cotangent", tensor.dtype, shape)
        argument.value.type = like.type
        return argument

    def count_trips(self) -> Tensor:
        """How many iterations the forward Loop made: the length of what it stacked, or a state that counts them."""
        if self.keeps_lists:
            zero = self.op.constant(0, ir.DataType.INT64)
            return self.add_state("count", zero.value, lambda _, count: count + 1)
        given = self.iteration.given
        stacked = given[0].stacked if given else self.stack(self.iteration.body.inputs[0]).stacked
        return self.op.Squeeze(self.op.Shape(self.op.tensor(stacked), start=0, end=1), self.op.ints([0]))

    def slice(self, stack: Stack, source: Tensor) -> Tensor:
        """The slice of *source*, which is laid out as *stack* is, for the iteration that is gone back through."""
        if self.counts:
            return self.inner.Gather(self.inner.tensor(source.value), self.at, axis=0)
        shape = None if stack.slice.shape is None else self.inner.tensor(stack.slice).shape
        self.sources.append(Stack(stack.index, source.value, stack.slice, stack.axis, stack.direction))
        return self.inner.argument(f"{stack.slice.name}.slice", source.dtype, shape)

    def stack(self, value: ir.Value) -> Stack:
        """Where all slices of a value of the forward body are; the forward node is made to give them if it must."""
        iteration, node = self.iteration, self.n.node
        for stack in (*iteration.read, *iteration.given):
            if stack.slice is value:
                return stack
        body = self.op.body(iteration.body)
        body.returns(body.tensor(value))
        node.resize_outputs(len(node.outputs) + 1)
        stacked = node.outputs[-1]
        stacked.name = self.op.fresh_name(f"{value.name}.stack")
        stacked.type, stacked.shape = value.type, None if value.shape is None else ir.Shape([None, *value.shape])
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in node.attributes:
                node.attributes[name] = ir.AttrInt64s(name, [*node.attributes[name].as_ints(), 0])
        return Stack(len(node.outputs) - 1, stacked, value, 0, 0)

    def hand_over(self) -> None:
        """Give the backward body what it reads of the forward body: slices of it, or the same computed again."""
        body = self.iteration.body
        read = read_from(self.inner.graph, body)
        for value in read:
            if is_sequence(self.op.tensor(value)):
                raise self.n.refuse(
                    f"the backward part reads the sequence {value.name!r} of each iteration, and there are no "
                    "sequences of sequences to keep them in; stack the tensors as a scan output instead"
                )
        again: Set[ir.Value] = set()
        if self.runs_again:
            again = {value for node in body for value in node.outputs} - set(body.outputs)
        elif not self.keeps_lists:
            again = find_varying_sizes(body)
        copies = self.compute_again([value for value in read if value in again], again)
        for value in read:
            copy = copies[value] if value in copies else self.kept(value).value
            replace_reads(self.inner.graph, value, copy)
        # The slices of a Loop's stacks, and what runs again, were emitted last.
        self.inner.graph.sort()

    def kept(self, value: ir.Value) -> Tensor:
        """What *value* of the forward body was in the iteration that is gone back through."""
        if self.keeps_lists:
            return self.inner.SequenceAt(self.inner.tensor(self.list_of(value).value), self.at)
        stack = self.stack(value)
        return self.slice(stack, self.op.tensor(stack.stacked))

    def compute_again(self, wanted: Sequence[ir.Value], again: Set[ir.Value]) -> dict[ir.Value, ir.Value]:
        """What stands for *wanted* in the backward body: computed as far as it is in *again*, from what is kept."""
        needed, nodes = dict.fromkeys(wanted), list[ir.Node]()
        for node in reversed(self.iteration.body):
            if any(output in needed and output in again for output in node.outputs):
                nodes.append(node)
                reads = (*node.inputs, *captured_values(node))
                needed |= dict.fromkeys(v for v in reads if v is not None and v.graph is self.iteration.body)
        copies = {value: self.kept(value).value for value in needed if value not in again}
        for node in reversed(nodes):
            if draws_random_values(node):
                raise self.n.refuse("it draws random values whose sizes may differ from iteration to iteration")
            copies |= run_again(self.inner, node, copies)
        return copies

    def list_of(self, value: ir.Value) -> Tensor:
        """The sequence of all values in the forward Loop of *value* of its body."""
        node = self.n.node
        dtype = self.op.tensor(value).dtype
        empty = ir.node("SequenceEmpty", [], {"dtype": int(dtype)}, name=self.op.fresh_name(f"{value.name}.empty"))
        empty.outputs[0].name = empty.name
        empty.outputs[0].type = ir.SequenceType(ir.TensorType(dtype))
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, empty)
        if value.shape is not None:
            empty.outputs[0].shape = ir.Shape(size if isinstance(size, int) else None for size in value.shape)
        return self.add_state(
            f"{value.name}.list", empty.outputs[0], lambda body, kept: body.SequenceInsert(kept, body.tensor(value))
        )

    def add_state(self, stem: str, initial: ir.Value, update: Callable[[Tape, Tensor], Tensor]) -> Tensor:
        """A further state of the forward Loop, which has no scan outputs: the value that it has at the end."""
        node, body = self.n.node, self.op.body(self.iteration.body)
        start = body.argument(stem, ir.DataType.UNDEFINED, None)
        start.value.type, start.value.shape = initial.type, initial.shape
        body.returns(update(body, start))
        node.resize_inputs(len(node.inputs) + 1)
        node.replace_input_with(len(node.inputs) - 1, initial)
        node.resize_outputs(len(node.outputs) + 1)
        final = node.outputs[-1]
        final.name = self.op.fresh_name(f"{stem}.final")
        final.type, final.shape = initial.type, initial.shape
        return self.op.tensor(final)

    def emit(self, first: Sequence[Tensor]) -> Sequence[Tensor]:
        op, body = self.op, self.inner.graph
        outputs = len(first) + len(self.read)
        if self.counts:
            always = op.constant(True, ir.DataType.BOOL)
            return op.emit_many("Loop", self.trips, always, *first, outputs=outputs, body=body)
        if not self.sources:
            stack = self.iteration.read[0]
            self.slice(stack, op.tensor(stack.stacked))
        attributes: dict[str, Any] = {
            "num_scan_inputs": len(self.sources),
            "scan_input_axes": [source.axis for source in self.sources],
            "scan_input_directions": [1 - source.direction for source in self.sources],
        }
        if self.read:
            attributes["scan_output_axes"] = [stack.axis for stack in self.read]
            attributes["scan_output_directions"] = [1 - stack.direction for stack in self.read]
        sources = [op.tensor(source.stacked) for source in self.sources]
        return op.emit_many("Scan", *first, *sources, outputs=outputs, body=body, **attributes)
