"""What is in a model: inputs, outputs, parameters, operators, and what would be active in a differentiation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..passes.activity import find_activity, is_float
from ..passes.blockers import find_blockers
from ..passes.flops import Flops, count_flops
from ..passes.peak_memory import PeakMemory, estimate_peak
from ..passes.registry import Registry
from ..passes.rules import BUILTIN_RULES
from .cost import OperatorCost, cost_by_operator
from .dims import check_sizes, dims_of_inputs
from .load import ModelLike, load_model
from .normalize import normalize
from .operators import State, describe_entry
from .pipeline import PassRecord, Pipeline, count_nodes, read_pass_records
from .program import Program
from .signature import SIGNATURE_KEY, Signature


@dataclass(frozen=True)
class InspectedValue:
    """A value, its type as text, and whether it would be active (depends on a parameter, reaches an output)."""

    name: str
    type: str
    active: bool


@dataclass(frozen=True)
class InspectedOperator:
    """How many nodes an operator has, how many of them are active, and the state of its derivative."""

    operator: str
    nodes: int
    active: int
    state: State
    note: str


@dataclass(frozen=True)
class Inspection:
    """The findings.

    Attributes:
        blockers: the active nodes that cannot be differentiated.
        signature: that of a joint graph, else None.
        peak: the most memory that a joint graph's activations are estimated to take, else None.
        costs: what a joint graph's operators compute, else empty.
        passes: what each pass of its compilation did.
        forward_flops: the arithmetic of the forward model, or of the forward part of a joint graph.
        joint_flops: that of a joint graph, else None.
        free_dims: the names of the symbolic dims of the inputs.
    """

    opset: int
    producer: str | None
    nodes: int
    inputs: list[InspectedValue]
    outputs: list[InspectedValue]
    parameters: list[InspectedValue]
    constants: list[InspectedValue]
    operators: list[InspectedOperator]
    blockers: list[str]
    signature: Signature | None
    peak: PeakMemory | None
    costs: list[OperatorCost]
    passes: list[PassRecord]
    forward_flops: Flops
    joint_flops: Flops | None
    free_dims: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def inspect_model(
    model: ModelLike, rules: Registry = BUILTIN_RULES, *, free_dims: Mapping[str, int] | None = None
) -> Inspection:
    """Look into *model*. Raises as `compile` does for a model that cannot be read.

    Args:
        free_dims: sizes for symbolic dims, for the estimates of arithmetic and memory; see `estimate_peak`.
    """
    loaded = load_model(model).model
    opset, producer, nodes = loaded.opset_imports.get("", 0), loaded.producer_name, count_nodes(loaded)
    text = loaded.metadata_props.get(SIGNATURE_KEY)
    signature = None if text is None else Signature.from_json(text)
    graph = loaded.graph
    free = dims_of_inputs(graph)
    check_sizes("free_dims", free_dims or {}, free)
    peak, joint_flops, forward_flops = None, None, Flops()
    costs, passes = [], read_pass_records(loaded)
    if signature is not None:
        peak, joint_flops = estimate_peak(graph, free_dims), count_flops(graph, free_dims)
        forward_flops = count_flops(Program(loaded, signature).forward(loss=True).graph, free_dims)
        costs = cost_by_operator(graph, free_dims)
    parameters = normalize(Pipeline(loaded), rules, {})
    if signature is None:
        forward_flops = count_flops(graph, free_dims)
    outputs = [value for value in graph.outputs if is_float(value)]
    activity = find_activity(graph, parameters, outputs, rules)
    constants = [v for v in graph.initializers.values() if is_float(v) and v not in parameters]

    def described(values: list[ir.Value]) -> list[InspectedValue]:
        return [InspectedValue(str(v.name), _type(v), v in activity.values) for v in values]

    return Inspection(
        opset,
        producer,
        nodes,
        described(list(graph.inputs)),
        described(list(graph.outputs)),
        described(parameters),
        described(constants),
        _operators(graph, activity.nodes, rules),
        [str(blocker) for blocker in find_blockers(activity, rules)],
        signature,
        peak,
        costs,
        passes,
        forward_flops,
        joint_flops,
        free,
    )


def _operators(graph: ir.Graph, active: tuple[ir.Node, ...], rules: Registry) -> list[InspectedOperator]:
    counts = Counter((node.domain, node.op_type) for node in graph.all_nodes())
    actives = Counter((node.domain, node.op_type) for node in active)
    examples = {(node.domain, node.op_type): node for node in graph.all_nodes()}
    rows = []
    for key, count in sorted(counts.items()):
        state, note = describe_entry(rules.get(examples[key]))
        rows.append(InspectedOperator(".".join(part for part in key if part), count, actives[key], state, note))
    return rows


def _type(value: ir.Value) -> str:
    shape = "" if value.shape is None else str(value.shape)
    return f"{value.dtype.name.lower() if value.dtype is not None else '?'}{shape}"
