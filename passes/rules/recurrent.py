"""What the rules of RNN, GRU and LSTM share: the reading of a node, whose place is taken by a Scan for each direction.

See recurrent_scans.py for what is kept and what is recomputed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import onnx_ir as ir

from ..registry import Cotangent, Primal
from ..tape import Dim, Tensor
from .recurrent_activations import read_activations
from .recurrent_scans import Direction, Run, cut
from .sizes import count_up_to, join_sizes, size_of

X, W, R, B, SEQUENCE_LENS, INITIAL_H, INITIAL_C, P = range(8)
"""The inputs of the three operators; the last two are the LSTM's."""

Gradients = Mapping[int, Callable[[], Tensor]]
"""How to compute the cotangents of one direction's share of the inputs, by the index of the input."""


class Layer:
    """A recurrent node.

    Args:
        dys: the cotangents of its outputs.
        gates: how many blocks of the hidden size W and R have.
        states: the indices of the inputs that are initial states.
        defaults, clipped: of its activations, see `read_activations`.

    Raises UnsupportedError on attribute values outside the specification.
    """

    def __init__(
        self,
        n: Primal,
        dys: Sequence[Tensor | None],
        *,
        gates: int,
        states: Sequence[int],
        defaults: Sequence[str],
        clipped: Sequence[bool],
    ) -> None:
        self.n, self.op = n, n.op
        reverses = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        direction = n.attr("direction", "forward")
        if direction not in reverses:
            raise n.refuse(f"its direction {direction!r} is none of {', '.join(reverses)}")
        self._reverses = reverses[direction]
        self._batch_first = bool(n.attr("layout", 0))
        self._gates, self._hidden = gates, int(n.attr("hidden_size"))
        self._states = states
        self._dys = (*dys, *[None] * len(states))[: 1 + len(states)]
        self._activations = read_activations(n, defaults, clipped)

    def run(self, forward: Callable[[Direction], Run]) -> list[tuple[Direction, Run]]:
        """Put *forward* of each direction in the place of the node."""
        with self._before_the_node():
            directions = self._directions()
            runs = [forward(direction) for direction in directions]
            self._take_over(directions, runs)
        dy, *dfinals = self._dys
        dys = self._split_any(None if dy is None else self._time_first(dy), 1)
        last = [self._split_any(dfinal, self._state_axis) for dfinal in dfinals]
        return [
            (replace(direction, dy=dys[d], dfinals=tuple(each[d] for each in last)), runs[d])
            for d, direction in enumerate(directions)
        ]

    def cotangents(self, gradients: Sequence[Gradients]) -> Sequence[Cotangent]:
        """The cotangents of the inputs, of each direction's *gradients*."""
        return [
            partial(self._join, index, [each[index] for each in gradients]) if index in gradients[0] else None
            for index in range(len(self.n.inputs))
        ]

    def _join(self, index: int, shares: Sequence[Callable[[], Tensor]]) -> Tensor:
        tensors = [share() for share in shares]
        if index == X:
            return self._as_laid_out(tensors[0] if len(tensors) == 1 else tensors[0] + tensors[1])
        return self._stack(tensors, self._state_axis if index in self._states else 0)

    @contextmanager
    def _before_the_node(self) -> Iterator[None]:
        """Nodes emitted meanwhile go where the node is, and are described as it is."""
        op, node = self.op, self.n.node
        graph, before = node.graph, len(op.graph)
        assert isinstance(graph, ir.Graph)
        prefix, metadata = op.prefix, op.metadata
        op.at(node.name or str(node.outputs[0].name), node.metadata_props)
        yield
        op.at(prefix, metadata)
        emitted = op.graph[before:]
        op.graph.remove(emitted)
        graph.insert_before(node, emitted)
        graph.remove(node, safe=True)

    def _take_over(self, directions: Sequence[Direction], runs: Sequence[Run]) -> None:
        """Let the readers of the node's outputs read the results of the *runs*, under the same names."""
        for index, old in enumerate(self.n.node.outputs):
            if not old.uses() and not old.is_graph_output():
                continue
            if index == 0:
                steps = [d.where_valid(run.states[0], 0) for d, run in zip(directions, runs, strict=True)]
                new = self._as_laid_out(self._stack(steps, 1))
            else:
                new = self._stack([run.finals[index - 1] for run in runs], self._state_axis)
            old.replace_all_uses_with(new.value, replace_graph_outputs=True)
            new.value.name, new.value.shape = old.name, old.shape

    def _directions(self) -> list[Direction]:
        n = self.n
        x = self._time_first(n.required(X))
        valid = self._valid(x)
        if valid is not None:
            # What stands behind the end of a sequence may be anything, NaN too.
            x = self.op.Where(valid, x, self.op.constant(0, x.dtype))
        w, r = self._weights(W, x.shape[2]), self._weights(R, self._hidden)
        b, p = self._split_any(n.input(B), 0), self._split_any(n.input(P), 0)
        initial = [self._initial(index, x) for index in self._states]
        return [
            Direction(
                reverse,
                x,
                w[d],
                r[d],
                None if (bias := b[d]) is None else cut(bias, 2),
                p[d],
                tuple(state[d] for state in initial),
                valid,
                self._activations[d],
            )
            for d, reverse in enumerate(self._reverses)
        ]

    def _weights(self, index: int, width: Dim) -> Sequence[Tensor]:
        """W or R of each direction, (gates · hidden, *width*)."""
        weight, height = self.n.required(index), self._gates * self._hidden
        expected = (len(self._reverses), height, width)
        if any(
            a != b for a, b in zip(weight.shape, expected, strict=True) if isinstance(a, int) and isinstance(b, int)
        ):
            raise self.n.refuse(
                f"the shape of {weight.value.name!r} is {weight.shape}, where its hidden_size of {self._hidden} "
                f"and its direction ask for {expected}"
            )
        shares = self._split(weight, 0)
        for share in shares:
            share.value.shape = ir.Shape([height, width])
        return shares

    def _initial(self, index: int, x: Tensor) -> Sequence[Tensor]:
        """An initial state of each direction, zeros if it is omitted."""
        given = self.n.input(index)
        if given is None:
            sizes = join_sizes(self.op, [size_of(x, 1), self._hidden])
            states: Sequence[Tensor] = [self.op.Expand(self.op.constant(0, x.dtype), sizes)] * len(self._reverses)
        else:
            states = self._split(given, self._state_axis)
        for state in states:
            state.value.shape = ir.Shape([x.shape[1], self._hidden])
        return states

    def _valid(self, x: Tensor) -> Tensor | None:
        """Whether each step is within its sequence, (steps, batch, 1); None if all are."""
        lengths = self.n.input(SEQUENCE_LENS)
        if lengths is None:
            return None
        steps = count_up_to(self.op, size_of(x, 0)).unsqueeze([1, 2])
        valid = steps < lengths.cast(ir.DataType.INT64).unsqueeze([0, 2])
        valid.value.shape = ir.Shape([*x.shape[:2], 1])
        return valid

    @property
    def _state_axis(self) -> int:
        """The axis of the directions in the initial and the last states."""
        return int(self._batch_first)

    def _time_first(self, x: Tensor) -> Tensor:
        """(steps, …, batch, size) of what is laid out as X or Y is."""
        return x.transpose([*range(1, x.rank - 1), 0, x.rank - 1]) if self._batch_first else x

    def _as_laid_out(self, x: Tensor) -> Tensor:
        """The inverse of `_time_first`."""
        return x.transpose([x.rank - 2, *range(x.rank - 2), x.rank - 1]) if self._batch_first else x

    def _split(self, x: Tensor, axis: int) -> Sequence[Tensor]:
        """The share of each direction."""
        if len(self._reverses) == 1:
            return [x.squeeze([axis])]
        return [each.squeeze([axis]) for each in self.op.emit_many("Split", x, outputs=2, axis=axis, num_outputs=2)]

    def _split_any(self, x: Tensor | None, axis: int) -> Sequence[Tensor | None]:
        """The same of what may be missing."""
        return [None] * len(self._reverses) if x is None else self._split(x, axis)

    def _stack(self, shares: Sequence[Tensor], axis: int) -> Tensor:
        """The inverse of `_split`."""
        expanded = [share.unsqueeze([axis]) for share in shares]
        return expanded[0] if len(expanded) == 1 else self.op.Concat(*expanded, axis=axis)
