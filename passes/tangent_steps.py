"""The ways in which tangents get from the inputs of a node to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from .activity import Activity, find_activity
from .blockers import refuse_blockers
from .contributions import Contributions
from .differentiate import FORWARD_NODE, PASS, differentiate_nodes
from .linear_tangents import linear_tangents
from .registry import Registry
from .tape import Tape


@dataclass
class Linear:
    """A node, as far as it is linear in its inputs.

    Attributes:
        reads: its inputs as they were before rules and inlining replaced any; None for those that do not count here.
    """

    node: ir.Node
    reads: Sequence[ir.Value | None]

    def push(self, tape: Tape, pushed: Contributions, rules: Registry) -> None:
        """Add the tangents of the outputs to *pushed*, made of those of the inputs."""
        known = {
            index: total
            for index, value in enumerate(self.reads)
            if value is not None and (total := pushed.total(value)) is not None
        }
        if not known:
            return
        stem = _stem(self.node)
        tape.at(f"{stem}.tangent", {FORWARD_NODE: stem, PASS: "pushforward"})
        for output, tangent in zip(self.node.outputs, linear_tangents(self.node, known, tape), strict=False):
            pushed.add(output, tangent)


@dataclass
class Symmetric:
    """A node whose Jacobian is symmetric with respect to each of its inputs that count.

    Attributes:
        reads: these inputs as they were before rules and inlining replaced any, each with its index.
    """

    node: ir.Node
    reads: Mapping[ir.Value, int]

    def push(self, tape: Tape, pushed: Contributions, rules: Registry) -> None:
        """Add the tangent of the output to *pushed*, made of those of the inputs."""
        for value, index in self.reads.items():
            tangent, read = pushed.total(value), self.node.inputs[index]
            if tangent is None or read is None:
                continue
            # A rule may look for where a cotangent comes from, which says nothing of a tangent.
            seed = (self.node.outputs[0], tape.Identity(tangent))
            activity = Activity(frozenset([read]), (self.node,), ())
            found = differentiate_nodes(tape, activity, rules, [seed], guards=False)
            if read in found:
                pushed.add(self.node.outputs[0], found[read])


@dataclass
class Transposed:
    """Nodes whose vector-Jacobian product is transposed: one, or several between which sequences of tensors pass.

    Attributes:
        reads: the values of which tangents come in.
        gives: those of which tangents go out.
        seeds: for each of *gives* a cotangent.
        cotangents: what the VJP makes of the seeds, by the values of *reads*.
        emitted: the nodes of the VJP.
    """

    activity: Activity
    reads: Sequence[ir.Value]
    gives: Sequence[ir.Value]
    seeds: dict[ir.Value, ir.Value] = field(default_factory=dict)
    cotangents: dict[ir.Value, ir.Value] = field(default_factory=dict)
    emitted: list[ir.Node] = field(default_factory=list)

    def pull_back(self, tape: Tape, rules: Registry) -> None:
        """Emit the VJP."""
        stem = _stem(self.activity.nodes[0])
        tape.at(f"{stem}.seed", {FORWARD_NODE: stem, PASS: "pushforward"})
        # Any cotangent would do, but one that is not zero, for which a rule may look.
        ones = {value: tape.full_like(tape.tensor(value), 1) for value in self.gives}
        seeds = {value: tape.Identity(each) for value, each in ones.items()}
        self.seeds = {value: seed.value for value, seed in seeds.items()}
        # What a Where does not pick makes no NaN here, for it does not pick its tangent either.
        found = differentiate_nodes(tape, self.activity, rules, list(seeds.items()), guards=False)
        self.cotangents = {value: found[value].value for value in self.reads if value in found}

    def push(self, tape: Tape, pushed: Contributions, rules: Registry) -> None:
        """Add the tangents of the outputs to *pushed*, made of those of the inputs."""
        directions = [
            (cotangent, total)
            for value, cotangent in self.cotangents.items()
            if (total := pushed.total(value)) is not None
        ]
        seeds, cotangents = list(self.seeds.values()), [cotangent for cotangent, _ in directions]
        activity = find_activity(self.emitted, seeds, cotangents, rules)
        refuse_blockers(activity, seeds, cotangents, rules)
        found = differentiate_nodes(tape, activity, rules, directions)
        for value, seed in self.seeds.items():
            if seed in found:
                pushed.add(value, found[seed])


Step = Linear | Symmetric | Transposed


def _stem(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)
