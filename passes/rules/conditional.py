"""If: only the branch that was taken is gone back through.

The backward branch is the vector-Jacobian product of the forward branch. What it reads of that branch, the If gives as
further outputs; the branch not taken gives something empty in their place. In a loop, which stacks these outputs, both
must have one size in all iterations: there the branch not taken gives zeros, and a branch with values of unknown sizes
is run again in the backward part instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..activity import find_activity
from ..differentiate import differentiate_nodes
from ..registry import Cotangent, Primal, Registry, already
from ..tape import Tape, Tensor
from .residuals import draws_random_values, read_from, replace_reads

rules = Registry()
BRANCHES = ("then_branch", "else_branch")


@rules.vjp("If", limits="in a loop, random values of unknown size")
def conditional(n: Primal, *dys: Tensor | None) -> Sequence[Cotangent]:
    """The cotangents of what the taken branch captures; the condition has none."""
    wanted = [tensor.value for tensor, active in zip(n.captured, n.active[1:], strict=True) if active]
    graphs: dict[str, Any] = {}
    for name in BRANCHES:
        branch: ir.Graph = n.attr(name)
        backward = n.op.body()
        _go_back(n, backward, branch, wanted, dys)
        residuals = read_from(backward.graph, branch)
        if n.op.is_body and not all(_has_static_shape(value) for value in residuals):
            if any(draws_random_values(node) for node in branch):
                raise n.refuse("a branch in a loop draws random values whose sizes are unknown; fix its free dims")
            repeated = branch.clone(allow_outer_scope_values=True)
            ends, repeated.outputs[:] = list(repeated.outputs), []
            backward = n.op.body(repeated)
            _go_back(n, backward, repeated, wanted, dys, ends)
            residuals = []
        for value in residuals:
            replace_reads(backward.graph, value, _give(n, name, value))
        graphs[name] = backward.graph
    results = n.op.emit_many("If", n.required(0), outputs=len(wanted), **graphs)
    for value, result in zip(wanted, results, strict=True):
        result.value.shape = value.shape
    cotangents = dict(zip(wanted, results, strict=True))
    return [None, *(already(cotangents.get(tensor.value)) for tensor in n.captured)]


def _go_back(
    n: Primal,
    backward: Tape,
    branch: ir.Graph,
    wanted: Sequence[ir.Value],
    dys: Sequence[Tensor | None],
    ends: Sequence[ir.Value] | None = None,
) -> None:
    """Emit the backward branch, whose outputs are the cotangents of *wanted*; *ends* are the branch's outputs."""
    ends = branch.outputs if ends is None else ends
    seeds = [(value, backward.tensor(dy.value)) for value, dy in zip(ends, dys, strict=False) if dy is not None]
    activity = find_activity(branch, wanted, [value for value, _ in seeds], n.rules)
    found = differentiate_nodes(backward, activity, n.rules, seeds)
    backward.returns(*(found.get(value) or backward.zeros_like(backward.tensor(value)) for value in wanted))


def _give(n: Primal, name: str, value: ir.Value) -> ir.Value:
    """*value* of the branch *name* as a further output of the If."""
    for each in BRANCHES:
        branch = n.op.body(n.attr(each))
        branch.returns(branch.tensor(value) if each == name else _in_its_place(branch, value, n.op.is_body))
    n.node.resize_outputs(len(n.node.outputs) + 1)
    output = n.node.outputs[-1]
    output.name = n.op.fresh_name(f"{value.name}.kept")
    output.type = value.type
    output.shape = None if value.shape is None else ir.Shape([None] * len(value.shape))
    return output


def _in_its_place(branch: Tape, value: ir.Value, in_loop: bool) -> Tensor:
    """What the branch gives that is not taken: nothing, or in a loop zeros of the shape of *value*."""
    like = branch.tensor(value)
    if in_loop:
        assert value.shape is not None
        return branch.Expand(branch.constant(0, like.dtype), branch.ints(value.shape.numpy()))
    return branch.constant(np.zeros([0] * (0 if value.shape is None else len(value.shape))), like.dtype)


def _has_static_shape(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()
