"""What a report shows of a program: its nodes, memory, costs, gradients and passes, as plain data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...compiler.dims import check_sizes, dims_of_inputs
from ...compiler.pipeline import PassRecord
from ...compiler.program import Program
from ...compiler.signature import Signature
from ...passes.execution_order import execution_order, producers_in
from ...passes.flops import count_flops
from ...passes.memory_of_values import NOMINAL_SIZE, size_in_bytes
from ...passes.peak_memory import PeakMemory, estimate_peak, totals_in_bytes
from ...passes.subgraphs import all_graphs
from ..attribution import JointGraph, Phase
from ..device import Provider
from ..exact_forward import in_float64
from ..feeds import Array, to_numpy
from ..profile import Profile, profile_step
from ..sample_inputs import sample_seeds
from ..session import Session

STEPS = 5
"""How many steps are profiled."""
DECADES = range(-12, 5)
"""Of the histograms of gradients: a bin holds what has this power of ten; the outermost hold what is beyond, too."""
VANISHING, EXPLODING = 1e-4, 1e4
"""Root mean squares of a gradient, relative to the median of all gradients' own, that are called so."""


@dataclass(frozen=True)
class NodeFacts:
    """A node of the joint graph.

    Attributes:
        inner: how many nodes its subgraphs have.
        reads: the positions of the nodes whose values it reads.
        outputs: names and types of what it computes.
        bytes: what these take; of a size that cannot be told, 0.
        flops: its arithmetic, subgraphs included.
        milliseconds: of all nodes of the same part that belong to the same forward node; None without a profile.
    """

    name: str
    operator: str
    phase: Phase
    rule: str
    forward_node: str
    inner: int
    reads: tuple[int, ...]
    outputs: str
    bytes: int
    flops: int
    milliseconds: float | None


@dataclass(frozen=True)
class Cost:
    """What is counted under one name, by part: nodes, arithmetic, milliseconds (None without a profile)."""

    name: str
    operator: str
    nodes: Mapping[Phase, int]
    flops: Mapping[Phase, int]
    milliseconds: Mapping[Phase, float] | None

    @property
    def total(self) -> float:
        return sum(self.flops.values()) if self.milliseconds is None else sum(self.milliseconds.values())


@dataclass(frozen=True)
class GradientFacts:
    """A gradient: *shares* are of its elements that are not 0, by the power of ten of their magnitude (`DECADES`)."""

    name: str
    shape: tuple[int, ...]
    norm: float
    rms: float
    largest: float
    zeros: float
    shares: tuple[float, ...]
    verdict: str = ""


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        sizes: those that symbolic dims are reckoned with.
        order: the positions of the nodes in the order of execution.
        live: the bytes that live while each of them is executed.
        profile: None without data; so are *gradients* empty then.
    """

    title: str
    opset: int
    parameters: int
    parameter_elements: int
    sizes: Mapping[str, int]
    nodes: tuple[NodeFacts, ...]
    order: tuple[int, ...]
    live: tuple[int, ...]
    peak: PeakMemory
    by_operator: tuple[Cost, ...]
    by_layer: tuple[Cost, ...]
    gradients: tuple[GradientFacts, ...]
    passes: tuple[PassRecord, ...]
    signature: Signature
    profile: Profile | None


def gather(
    program: Program,
    title: str,
    inputs: Mapping[str, Array] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    providers: Sequence[Provider] | None = None,
) -> Facts:
    """Look into *program*, and run it on *inputs* if they are given.

    Args:
        inputs: a batch of inputs and labels; without one there are no times and no gradients.
        sizes: of symbolic dims; those of *inputs* come first.
        seed: of the cotangents of outputs that need one, drawn at random.

    Raises InputError for inputs or sizes that do not fit, and Error where ONNX Runtime cannot run or profile the graph.
    """
    check_sizes("sizes", sizes or {}, dims_of_inputs(program.model.graph))
    known = {**(sizes or {}), **_sizes_of(program.signature, inputs or {})}
    profile: Profile | None = None
    gradients: tuple[GradientFacts, ...] = ()
    if inputs is not None:
        session = Session(program, providers=providers)
        seeds = sample_seeds(session, inputs, seed=seed)
        gradients = _judge([_gradient(name, array) for name, array in session.grad(inputs, seeds).items()])
        profile = profile_step(program, inputs, seeds, steps=STEPS, providers=providers)
    graph = program.executable().graph
    nodes = _nodes(program, graph, known, profile)
    position = {node: index for index, node in enumerate(graph)}
    order = execution_order(graph)
    arrays = program.parameters.values()
    return Facts(
        title,
        program.model.opset_imports.get("", 0),
        len(program.parameters),
        sum(array.size for array in arrays),
        {name: known.get(name, NOMINAL_SIZE) for name in sorted(dims_of_inputs(graph))},
        nodes,
        tuple(position[node] for node in order),
        tuple(totals_in_bytes(graph, known, order)),
        estimate_peak(graph, known, order),
        _costs(nodes, profile, by_operator=True),
        _costs(nodes, profile, by_operator=False),
        gradients,
        program.report,
        program.signature,
        profile,
    )


def _sizes_of(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The sizes that *inputs* give to symbolic dims."""
    sizes: dict[str, int] = {}
    for port in signature.inputs_of("input", "label"):
        if port.name in inputs and port.shape is not None:
            shape = to_numpy(inputs[port.name]).shape
            sizes |= {dim: size for dim, size in zip(port.shape, shape, strict=False) if isinstance(dim, str)}
    return sizes


def _nodes(
    program: Program, graph: ir.Graph, sizes: Mapping[str, int], profile: Profile | None
) -> tuple[NodeFacts, ...]:
    joint = JointGraph(program)
    reads = producers_in(graph)
    position = {node: index for index, node in enumerate(graph)}
    times: dict[tuple[str, str], float] = defaultdict(float)
    for kernel in profile.kernels if profile is not None else ():
        if kernel.attribution is not None:
            origin = kernel.attribution.origin
            times[origin.phase, origin.forward_node] += kernel.milliseconds
    found = []
    for node in graph:
        origin = joint.origin(node)
        taken = [size_in_bytes(value, sizes) for value in node.outputs]
        found.append(
            NodeFacts(
                node.name or str(node.outputs[0].name),
                node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}",
                origin.phase,
                origin.operator,
                origin.forward_node,
                sum(len(inner) for inner in all_graphs_in(node)),
                tuple(position[producer] for producer in reads[node]),
                ", ".join(_described(value) for value in node.outputs if value.name),
                int(sum(size for size in taken if math.isfinite(size))),
                count_flops([node], sizes).total,
                None if profile is None else times.get((origin.phase, origin.forward_node), 0.0),
            )
        )
    return tuple(found)


def all_graphs_in(node: ir.Node) -> list[ir.Graph]:
    """The subgraphs of *node*, and those in them."""
    own = [attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH]
    return [inner for graph in own for inner in all_graphs(graph)]


def _described(value: ir.Value) -> str:
    dtype = "?" if value.dtype is None else value.dtype.name.lower()
    return f"{value.name} {dtype}{'' if value.shape is None else value.shape}"


def _costs(nodes: Sequence[NodeFacts], profile: Profile | None, *, by_operator: bool) -> tuple[Cost, ...]:
    """The costs of forward operators, each with its rule's, or of forward nodes with their backward nodes."""
    groups: dict[str, list[NodeFacts]] = defaultdict(list)
    for node in nodes:
        groups[node.rule if by_operator else node.forward_node].append(node)
    shares = {}
    if profile is not None:
        shares = {s.name: s for s in (profile.by_operator() if by_operator else profile.by_forward_node())}
    costs = []
    phases: tuple[Phase, ...] = ("forward", "backward", "recomputed")
    for name, group in groups.items():
        share = shares.get(name)
        milliseconds: dict[Phase, float] = dict.fromkeys(phases, 0.0)
        if share is not None:
            milliseconds = {"forward": share.forward, "backward": share.backward, "recomputed": share.recomputed}
        costs.append(
            Cost(
                name,
                group[0].rule,
                {phase: sum(node.phase == phase for node in group) for phase in phases},
                {phase: sum(node.flops for node in group if node.phase == phase) for phase in phases},
                None if profile is None else milliseconds,
            )
        )
    return tuple(sorted(costs, key=lambda cost: (-cost.total, cost.name)))


def _gradient(name: str, gradient: np.ndarray) -> GradientFacts:
    exact = in_float64(gradient).reshape(-1)
    if not np.isfinite(exact).all():
        return GradientFacts(name, gradient.shape, math.nan, math.nan, math.nan, 0.0, (), "not finite")
    magnitudes = np.abs(exact[exact != 0])
    powers = np.clip(np.floor(np.log10(magnitudes)), DECADES[0], DECADES[-1]).astype(int)
    counts = np.bincount(powers - DECADES[0], minlength=len(DECADES)) / max(magnitudes.size, 1)
    return GradientFacts(
        name,
        gradient.shape,
        float(np.linalg.norm(exact)),
        float(np.sqrt(np.mean(np.square(exact)))) if exact.size else 0.0,
        float(np.max(np.abs(exact), initial=0.0)),
        1 - magnitudes.size / max(exact.size, 1),
        tuple(float(count) for count in counts),
    )


def _judge(gradients: Sequence[GradientFacts]) -> tuple[GradientFacts, ...]:
    """*gradients* with verdicts, by their size relative to the others'."""
    usual = float(np.median([g.rms for g in gradients if g.rms > 0] or [0.0]))
    judged = []
    for gradient in gradients:
        verdict = gradient.verdict
        if not verdict and gradient.norm == 0:
            verdict = "zero"
        elif not verdict and gradient.rms < VANISHING * usual:
            verdict = "vanishing"
        elif not verdict and gradient.rms > EXPLODING * usual:
            verdict = "exploding"
        judged.append(replace(gradient, verdict=verdict))
    return tuple(judged)
