"""Forward-mode differentiation: the tangent map, as the transpose of the VJP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from .differentiate import FORWARD_NODE, PASS, differentiate
from .forms import plain_form
from .fresh_names import FreshNames
from .registry import Registry
from .tape import Tape


def pushforward(
    graph: ir.Graph,
    tangents: Mapping[ir.Value, ir.Value],
    outputs: Sequence[ir.Value],
    rules: Registry,
    inline: Callable[[], None] = lambda: None,
) -> dict[ir.Value, ir.Value]:
    """Append to *graph* the tangents of *outputs*, the Jacobian-vector product.

    The cotangents of the primals, Jᵀ dy, are linear in dy; so their own VJP with respect to dy, with the tangents v as
    seeds, is J v. No second table of rules is needed, and the cotangents themselves are dead code afterwards.

    Args:
        tangents: initializers, graph inputs or intermediate values, each with its tangent, of the same shape and dtype.
        outputs: values of the graph.
        inline: replaces the calls of functions that the first differentiation has made; called before the second.

    Returns:
        the tangents of those of *outputs* that depend on a primal.

    Raises UnsupportedError as `differentiate` does.

    Source: Radul et al., "You Only Linearize Once", 2022 (there the other way round: the VJP as a transposed JVP).
    """
    before = set(graph)
    rules = Registry(rules, choose=plain_form)
    tape = Tape(graph)
    tape.at("tangent", {PASS: "pushforward"})
    # Any dy would do. Where a rule asks whether dy is zero, it asks what is not picked by a Where: ones are.
    seeds = {value: tape.Identity(tape.full_like(tape.tensor(value), 1)).value for value in dict.fromkeys(outputs)}
    cotangents = differentiate(graph, seeds, list(tangents), rules, optional=list(tangents))
    inline()
    arriving: dict[ir.Value, list[ir.Value]] = {}
    for primal, cotangent in cotangents.items():
        arriving.setdefault(cotangent, []).append(tangents[primal])
    tape = Tape(graph)
    directions = {
        cotangent: each[0] if len(each) == 1 else tape.Sum(*map(tape.tensor, each)).value
        for cotangent, each in arriving.items()
    }
    wrt = list(seeds.values())
    pushed = differentiate(graph, directions, wrt, rules, optional=wrt) if directions else {}
    _name_after_forward_nodes(graph, before)
    return {value: pushed[seed] for value, seed in seeds.items() if seed in pushed}


def _name_after_forward_nodes(graph: ir.Graph, before: set[ir.Node]) -> None:
    """Give the emitted nodes the provenance of the forward nodes whose tangents they compute."""
    emitted = [node for node in graph if node not in before]
    names = FreshNames(graph)
    origin = {node.name: node.metadata_props.get(FORWARD_NODE) for node in emitted}
    for node in emitted:
        forward = node.metadata_props.get(FORWARD_NODE)
        while forward in origin and origin[forward] is not None:
            forward = origin[forward]
        node.metadata_props[PASS] = "pushforward"
        if forward is not None:
            node.metadata_props[FORWARD_NODE] = forward
            node.name = names.fresh(f"{forward}.tangent/{node.op_type}")
