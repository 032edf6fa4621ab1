"""Reverse-mode differentiation: one walk back over the active nodes, one rule a node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
import onnx_ir as ir

from .activity import Activity, find_activity, is_float, where_the_path_breaks
from .blockers import refuse_blockers
from .broadcasting import unbroadcast
from .contributions import Contributions
from .element_types import FLOATS
from .errors import UnsupportedError, describe
from .guards import needs_guard, zero_where_not_picked
from .registry import Cotangent, Primal, Registry, Rule
from .sequences import is_sequence
from .subgraphs import captured_values
from .tape import Tape, Tensor

FORWARD_NODE = "onnxgrad.forward_node"
"""Metadata key of an emitted node: the name of the forward node it belongs to."""
RULE = "onnxgrad.rule"
"""Metadata key of an emitted node: the operator whose rule emitted it."""
PASS = "onnxgrad.pass"
"""Metadata key of an emitted node: the pass that emitted it."""


def differentiate(
    graph: ir.Graph,
    outputs: Mapping[ir.Value, ir.Value],
    wrt: Sequence[ir.Value],
    rules: Registry,
    *,
    optional: Collection[ir.Value] = (),
    tape: Tape | None = None,
) -> dict[ir.Value, ir.Value]:
    """Append to *graph* the computation of the vector-Jacobian product.

    Args:
        outputs: the differentiated outputs, each with its seed: a value of the same shape and dtype.
        wrt: initializers, graph inputs or intermediate values.
        optional: the members of *wrt* which, when no output depends on them, are left out of the result
            instead of raising (the convention of `torch.autograd.grad`'s `allow_unused`).
        tape: of *graph*, to emit on; a new one, which has to look up all names first, if None.

    Returns:
        for each member of *wrt* its gradient, with the shape and dtype of the primal.

    Raises:
        UnsupportedError: a member of *wrt* or an output is no float, no output depends on a member of *wrt*,
            or a node on the path cannot be differentiated.
    """
    activity = find_differentiable(graph, wrt, list(outputs), rules)
    missing = [value for value in activity.unreached if value not in optional]
    if missing:
        raise UnsupportedError(_explain_unreached(graph, missing, rules))
    walk = _ReverseWalk(tape or Tape(graph), activity, rules)
    for output, seed in outputs.items():
        walk.contributions.add(output, walk.tape.tensor(seed))
    return walk.run(wrt)


def find_differentiable(
    graph: ir.Graph | Sequence[ir.Node], wrt: Sequence[ir.Value], outputs: Sequence[ir.Value], rules: Registry
) -> Activity:
    """The differentiated path. Raises UnsupportedError for what is no float, and for nodes that stand in the way."""
    for value in (*wrt, *outputs):
        if not is_float(value):
            raise UnsupportedError(
                f"{value.name!r} has element type {value.dtype}; only floating-point values can be differentiated"
            )
    activity = find_activity(graph, wrt, outputs, rules)
    refuse_blockers(activity, wrt, outputs, rules)
    return activity


def differentiate_nodes(
    tape: Tape,
    activity: Activity,
    rules: Registry,
    cotangents: Sequence[tuple[ir.Value, Tensor]],
    *,
    guards: bool = True,
) -> dict[ir.Value, Tensor]:
    """Emit on *tape* the vector-Jacobian product of the nodes of *activity*, those of a subgraph or some of a graph.

    Where the tape's graph is another one than that of the nodes, what is emitted reads values of theirs, which are to
    be handed over by the node that has it.

    Args:
        cotangents: of the nodes' outputs, tensors of the tape; a value may occur more than once.
        guards: keep what a Where does not pick from making NaN (`guards`).

    Returns:
        the cotangents of all values that got one.
    """
    walk = _ReverseWalk(tape, activity, rules, guards)
    for value, cotangent in cotangents:
        walk.contributions.add(value, cotangent)
    walk.back()
    return walk.contributions.totals()


class _ReverseWalk:
    def __init__(self, tape: Tape, activity: Activity, rules: Registry, guards: bool = True) -> None:
        self.tape = tape
        self.activity = activity
        self.rules = rules
        self.guards = guards
        self.contributions = Contributions(tape)

    def back(self) -> None:
        for node in reversed(self.activity.nodes):
            self.visit(node)

    def run(self, wrt: Sequence[ir.Value]) -> dict[ir.Value, ir.Value]:
        self.back()
        gradients = {}
        for value in wrt:
            self.tape.at(str(value.name), {PASS: "differentiate"})
            total = self.contributions.total(value)
            if total is not None:
                gradients[value] = total.value
            elif value not in self.activity.unreached:
                gradients[value] = self.tape.zeros_like(self.tape.tensor(value)).value
        return gradients

    def visit(self, node: ir.Node) -> None:
        rule = self.rules.get(node)
        assert isinstance(rule, Rule), "find_activity refuses nodes without a rule"
        stem = node.name or str(node.outputs[0].name)
        # A lowered node bears the name and operator of the one it was.
        was = {} if PASS in node.metadata_props else node.metadata_props
        provenance = {FORWARD_NODE: was.get(FORWARD_NODE, stem), RULE: was.get(RULE, node.op_type)}
        self.tape.at(f"{stem}.grad", {**provenance, PASS: "differentiate"})
        cotangents = [self.contributions.total(output) for output in node.outputs]
        if all(cotangent is None for cotangent in cotangents):
            return
        reads = [*node.inputs, *captured_values(node)]
        wanted = [
            value in self.activity.values and (rule.inputs is None or index in rule.inputs or index >= len(node.inputs))
            for index, value in enumerate(reads)
        ]
        n = Primal(node, self.tape, wanted, self.rules)
        guarded = self.guards and needs_guard(node, self.rules)
        given = _as_sequence(node, rule.function(n, *cotangents))
        _check_count(node, given, wanted)
        for index, cotangent in enumerate(given):
            if index >= len(wanted) or not wanted[index] or cotangent is None:
                continue
            value = reads[index]
            assert value is not None, "only a value that is there is wanted"
            primal = self.tape.tensor(value)
            empty = _is_empty(primal)
            contribution = self.tape.zeros_like(primal) if empty else cotangent()
            if contribution is not None:
                _check_contribution(node, index, contribution, primal, rule)
                if guarded and cotangents[0] is not None and not empty:
                    contribution = zero_where_not_picked(contribution, cotangents[0])
                self.contributions.add(primal.value, project(contribution, primal, broadcasts=rule.broadcasts))


def project(cotangent: Tensor, primal: Tensor, *, broadcasts: bool) -> Tensor:
    """Bring *cotangent* to the shape and dtype of *primal*."""
    if is_sequence(primal):
        return cotangent
    if broadcasts:
        cotangent = unbroadcast(cotangent, primal)
    cotangent = cotangent.cast(primal.dtype)
    if primal.value.shape is not None:
        inferred = cotangent.value.shape or primal.value.shape
        cotangent.value.shape = ir.Shape(
            own if isinstance(own, int) else target for own, target in zip(inferred, primal.value.shape, strict=True)
        )
    return cotangent


def _check_count(node: ir.Node, given: Sequence[Cotangent], wanted: Sequence[bool]) -> None:
    """Raise UnsupportedError when a rule has not one cotangent for each input, which would make some zero."""
    most = len(wanted)
    if len(given) > most and node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
        most = max(most, onnx.defs.get_schema(node.op_type).max_input)
    if len(given) > most or any(wanted[len(given) :]):
        raise UnsupportedError(
            f"The rule of {describe(node)} gave {len(given)} cotangents, for {len(node.inputs)} inputs; a rule returns "
            "one for each input, None where it is zero"
        )


def _check_contribution(node: ir.Node, index: int, contribution: Tensor, primal: Tensor, rule: Rule) -> None:
    """Raise UnsupportedError when a rule's cotangent cannot be one of its input."""
    if not isinstance(contribution, Tensor):
        raise UnsupportedError(
            f"The rule of {describe(node)} gave for input {index} a {type(contribution).__name__}; a cotangent is what "
            "operators on tensors give (n.op.constant makes a tensor of a number)"
        )
    if is_sequence(primal) or is_sequence(contribution):
        return
    found, wanted, dtype = contribution.value.shape, primal.value.shape, contribution.value.dtype
    problem = None
    if dtype is not None and dtype not in FLOATS:
        problem = f"a cotangent of {dtype}; it is a float tensor"
    elif not rule.broadcasts and found is not None and wanted is not None and not _may_be_equal(found, wanted):
        problem = f"a cotangent of shape {found}; it has the shape of the input"
    if problem is not None:
        raise UnsupportedError(
            f"The rule of {describe(node)} gave for input {index}, {primal.value.dtype}{wanted}, {problem}"
        )


def _may_be_equal(a: ir.Shape, b: ir.Shape) -> bool:
    """Whether the shapes have one rank and no two known sizes that differ."""
    return len(a) == len(b) and all(
        x == y or not (isinstance(x, int) and isinstance(y, int)) for x, y in zip(a, b, strict=True)
    )


def _is_empty(tensor: Tensor) -> bool:
    """Whether it is known to have no elements; then a rule may divide by their number, which would reach its dy."""
    sizes = tensor.static_shape
    return sizes is not None and 0 in sizes and not is_sequence(tensor)


def _as_sequence(node: ir.Node, result: Cotangent | Sequence[Cotangent]) -> Sequence[Cotangent]:
    """What a rule returned, as one item for each input. Raises UnsupportedError where that is no Cotangent."""
    cotangents = result if isinstance(result, Sequence) else [result]
    for each in cotangents:
        if each is not None and not callable(each):
            raise UnsupportedError(
                f"The rule of {describe(node)} gave a {type(each).__name__}; a rule returns for each input a function "
                "that computes the cotangent, or None where it is zero"
            )
    return cotangents


def _explain_unreached(graph: ir.Graph, missing: Sequence[ir.Value], rules: Registry) -> str:
    lines = []
    for value in missing:
        breaks = where_the_path_breaks(graph, value, rules)
        why = f"the path breaks at {breaks[0]}" if breaks else "no differentiated output depends on it"
        lines.append(f"  - {value.name!r}: {why}")
    return (
        "These members of `wrt` have no gradient:\n"
        + "\n".join(lines)
        + "\nLeave them out, or pass allow_unused=True to have no gradient for them "
        "(materialize_grads=True for zeros)."
    )
