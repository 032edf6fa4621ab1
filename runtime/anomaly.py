"""Where a NaN or an infinity comes from: the first node of a graph that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..compiler.program import Program
from ..passes.differentiate import FORWARD_NODE, RULE
from ..passes.eliminate_common_subexpressions import RECOMPUTE
from ..passes.errors import AnomalyError, describe
from ..passes.execution_order import execution_order
from ..passes.fresh_names import FreshNames
from ..passes.subgraphs import captured_values
from .device import Provider
from .exact_forward import in_float64
from .feeds import Array, to_numpy
from .finiteness import Feeds, count_inside, count_values, is_float_tensor, run_as_written


@dataclass(frozen=True)
class Statistics:
    """Of a value: *least*, *largest* and *mean* are of its finite elements, NaN if it has none."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    least: float
    largest: float
    mean: float
    nan: int
    infinite: int

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Statistics:
        exact = in_float64(np.asarray(array))
        finite = exact[np.isfinite(exact)]
        least, largest, mean = (
            (float(finite.min()), float(finite.max()), float(finite.mean())) if finite.size else (np.nan,) * 3
        )
        nan, infinite = int(np.isnan(exact).sum()), int(np.isinf(exact).sum())
        return cls(name, array.dtype.name, array.shape, least, largest, mean, nan, infinite)

    def __str__(self) -> str:
        size = int(np.prod(self.shape, dtype=np.int64))
        odd = ", ".join(
            f"{count} of {size} {what}" for count, what in ((self.nan, "NaN"), (self.infinite, "Inf")) if count
        )
        finite = (
            f"min {self.least:.4g}, max {self.largest:.4g}, mean {self.mean:.4g}" if not np.isnan(self.mean) else ""
        )
        return f"{self.name!r} {self.dtype}{list(self.shape)}: {'; '.join(part for part in (finite, odd) if part)}"


@dataclass(frozen=True)
class Anomaly:
    """The origin of what is not finite.

    Attributes:
        result: the output of the graph in which it was seen.
        kind: "NaN" or "Inf".
        node: the first node that makes one from inputs which have none; None if it was fed.
        source: the name of the graph input or constant that has one, if it was fed.
        rule: the operator whose rule emitted the node; None for a forward node.
        forward_node: the forward node to which the node belongs; its own name for a forward node.
        inputs, outputs: what it read and made.
        infinities: for a node that makes NaN of infinities, where these come from.
        inside: of a Scan, Loop or If, the node within it, and the iteration in which it makes the first.
    """

    result: str
    kind: str
    node: ir.Node | None
    source: str | None
    rule: str | None
    forward_node: str | None
    inputs: tuple[Statistics, ...]
    outputs: tuple[Statistics, ...]
    infinities: tuple[str, ...]
    inside: tuple[ir.Node, int | None] | None = None

    def __str__(self) -> str:
        if self.node is None:
            seen = "".join(f"\n  {each}" for each in self.inputs)
            return f"{self.result!r} has {self.kind}, and so has {self.source!r}, on which it depends:{seen}"
        part = "of the forward part"
        if self.rule is not None:
            part = f"of the backward part, by the rule of {self.rule} for the forward node {self.forward_node!r}"
        elif self.forward_node != self.node.name:
            part = f"that computes the forward node {self.forward_node!r} again"
        lines = [
            f"{self.result!r} has {self.kind}. The first node that makes one from inputs without is",
            f"  {describe(self.node)}, {part}",
            *([] if self.inside is None else [_describe_inside(*self.inside)]),
            *(f"  reads {each}" for each in self.inputs),
            *(f"  makes {each}" for each in self.outputs),
            *(f"  {each}" for each in self.infinities),
        ]
        return "\n".join(lines)


def _describe_inside(node: ir.Node, iteration: int | None) -> str:
    where = "" if iteration is None else f", first in iteration {iteration} (counted from 0)"
    return f"  inside it: {describe(node)}{where}"


def check_finite(
    program: Program, kind: str, feeds: Mapping[str, Array], results: Mapping[str, Array], providers: Sequence[Provider]
) -> None:
    """Raise AnomalyError if something in *results* is not finite that ought to be, and say where it comes from.

    Args:
        program: in mode "grad".
        kind: what ran: "forward", "loss" or "grad".
        feeds: the inputs, labels, seeds and parameters by name.
        results: outputs by name. Of the model's own only NaN is a fault; a loss or a gradient must be finite.
    """
    lenient = {port.name for port in program.signature.outputs_of("output")}
    faults = []
    for name, array in results.items():
        exact = in_float64(to_numpy(array))
        if exact.dtype.kind == "f" and np.any(np.isnan(exact) if name in lenient else ~np.isfinite(exact)):
            faults.append(name)
    if not faults:
        return
    model = program.executable() if kind == "grad" else program.forward(loss=kind == "loss")
    anomaly = find_anomaly(model, {name: to_numpy(array) for name, array in feeds.items()}, faults, providers)
    if anomaly is not None:
        raise AnomalyError(str(anomaly))
    raise AnomalyError(
        f"{faults[0]!r} is not finite, but it is when the graph runs once more: the graph draws random numbers, or the "
        "gradient buffer was not finite before (zero_grad() clears it)"
    )


def find_anomaly(
    model: ir.Model, feeds: Feeds, suspects: Sequence[str], providers: Sequence[Provider]
) -> Anomaly | None:
    """Look for the origin of what is not finite in the outputs *suspects* of *model*, run once more on *feeds*.

    Only what reaches one of the outputs counts: an infinity that a mask brings, or a NaN in a branch that a Where does
    not pick, is no anomaly. A copy of the graph counts the NaN and the infinities of each value as it runs, so it
    takes no more memory than the graph itself; a second run gives the inputs and outputs of the node.

    Returns:
        None when no suspect is at fault in that run, in which random numbers are drawn anew.

    Raises Error when ONNX Runtime cannot run the graph.
    """
    graph = model.graph
    counts = _count(model, feeds, providers)
    position = {node: index for index, node in enumerate(execution_order(graph))}
    values = {str(value.name): value for value in graph.outputs}

    def has_nan(value: ir.Value) -> bool:
        return counts.get(str(value.name), (0, 0))[0] > 0

    def has_infinity(value: ir.Value) -> bool:
        return counts.get(str(value.name), (0, 0))[1] > 0

    for name in suspects:
        value = values[name]
        bad, kind = (has_nan, "NaN") if has_nan(value) else (has_infinity, "Inf")
        if not bad(value):
            continue
        origin = _origin(value, bad, position)
        if isinstance(origin, ir.Value):
            source = str(origin.name)
            array = feeds[source] if source in feeds else _constant(origin)
            return Anomaly(name, kind, None, source, None, None, (Statistics.of(source, array),), (), ())
        read = [each for each in dict.fromkeys((*origin.inputs, *captured_values(origin))) if each is not None]
        infinities = []
        for each in read:
            if kind == "NaN" and has_infinity(each):
                made_by = _origin(each, has_infinity, position)
                where = repr(made_by.name) if isinstance(made_by, ir.Value) else describe(made_by)
                infinities.append(f"the infinities in {each.name!r} come from {where}")
        inputs, outputs = _look(model, feeds, read, providers), _look(model, feeds, origin.outputs, providers)
        metadata = origin.metadata_props
        forward_node = metadata.get(RECOMPUTE) or metadata.get(FORWARD_NODE) or origin.name
        rule = None if RECOMPUTE in metadata else metadata.get(RULE)
        inside = None
        if origin.op_type in ("If", "Loop", "Scan"):
            inside = count_inside(model, str(origin.outputs[0].name), feeds, providers)
        return Anomaly(name, kind, origin, None, rule, forward_node, inputs, outputs, tuple(infinities), inside)
    return None


def _origin(value: ir.Value, bad: Callable[[ir.Value], bool], position: Mapping[ir.Node, int]) -> ir.Node | ir.Value:
    """The first node that makes a *bad* value from good ones, of those from which badness reaches *value*.

    A bad graph input or constant comes before all nodes.
    """
    nodes: list[ir.Node] = []
    stack, seen = [value], {value}
    while stack:
        current = stack.pop()
        node = current.producer()
        if node is None:
            return current
        read = [each for each in (*node.inputs, *captured_values(node)) if each is not None and bad(each)]
        if not read:
            nodes.append(node)
        stack += [each for each in read if each not in seen]
        seen.update(read)
    return min(nodes, key=lambda node: position[node])


def _count(model: ir.Model, feeds: Feeds, providers: Sequence[Provider]) -> dict[str, tuple[int, int]]:
    """By name, how many NaN and infinities each float of the main graph has."""
    counting = model.clone()
    counts = count_values(counting.graph, FreshNames(counting.graph).fresh)
    counting.graph.outputs[:] = [count for pair in counts.values() for count in pair]
    results = run_as_written(counting, feeds, providers)
    found = {str(v.name): (int(results[2 * i]), int(results[2 * i + 1])) for i, v in enumerate(counts)}
    sources = {
        str(value.name): _constant(value) for value in model.graph.initializers.values() if is_float_tensor(value)
    }
    for name, array in {**sources, **feeds}.items():
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            exact = in_float64(array)
            found[name] = int(np.isnan(exact).sum()), int(np.isinf(exact).sum())
    return found


def _look(
    model: ir.Model, feeds: Feeds, values: Sequence[ir.Value], providers: Sequence[Provider]
) -> tuple[Statistics, ...]:
    """The statistics of *values*: floats, and integers and bools, which may be indices or masks."""
    unread = (None, ir.DataType.STRING, ir.DataType.BFLOAT16)
    tensors = [value for value in values if isinstance(value.type, ir.TensorType) and value.dtype not in unread]
    computed = [str(value.name) for value in tensors if value.producer() is not None]
    looking = model.clone()
    by_name = {str(value.name): value for node in looking.graph for value in node.outputs}
    looking.graph.outputs[:] = [by_name[name] for name in computed]
    arrays = dict(zip(computed, run_as_written(looking, feeds, providers) if computed else (), strict=True))
    return tuple(
        Statistics.of(name, arrays[name] if name in arrays else feeds[name] if name in feeds else _constant(value))
        for name, value in ((str(value.name), value) for value in tensors)
    )


def _constant(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()
