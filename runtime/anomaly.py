"""Where a NaN or an infinity comes from: the first node of a graph that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..passes.differentiate import FORWARD_NODE, RULE
from ..passes.eliminate_common_subexpressions import RECOMPUTE
from ..passes.errors import AnomalyError, describe
from ..passes.execution_order import execution_order
from ..passes.fresh_names import FreshNames
from .device import Provider
from .exact_forward import in_float64
from .feeds import Array, to_numpy
from .finiteness import Feeds, count_values, is_float_tensor, run_as_written
from .inner_anomaly import Inside, find_inside
from .origin import Infinities, find_origin, infinities_read, values_read


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
        made_by: the node of the forward part that computed the source, if that is a residual.
        rule: the operator whose rule emitted the node; None for a forward node.
        forward_node: the forward node to which the node belongs; its own name for a forward node.
        inputs, outputs: what it read and made.
        infinities: for a node that makes NaN of infinities, where these come from.
        inside: of a Scan, Loop or If, the node within it that makes the first, and where that is one too, the node
            within that, down to the innermost.
    """

    result: str
    kind: str
    node: ir.Node | None
    source: str | None
    rule: str | None
    forward_node: str | None
    inputs: tuple[Statistics, ...]
    outputs: tuple[Statistics, ...]
    infinities: tuple[Infinities, ...]
    inside: tuple[Inside, ...] = ()
    made_by: ir.Node | None = None

    def __str__(self) -> str:
        if self.node is None:
            lines = [f"{self.result!r} has {self.kind}, and so has {self.source!r}, on which it depends:"]
            lines += [f"  {each}" for each in self.inputs]
            if self.made_by is not None:
                lines.append(f"  It is a residual, which {describe(self.made_by)}, {_part(self.made_by)}, has made.")
                lines.append("  Call vjp within detect_anomaly() too, to find where that comes from.")
            return "\n".join(lines)
        lines = [
            f"{self.result!r} has {self.kind}. The first node that makes one from inputs without is",
            f"  {describe(self.node)}, {_part(self.node)}",
            *(_describe_inside(each) for each in self.inside),
            *(f"  reads {each}" for each in self.inputs),
            *(f"  makes {each}" for each in self.outputs),
            *(f"  {each}" for each in self.infinities),
        ]
        return "\n".join(lines)


def _describe_inside(inside: Inside) -> str:
    where = "" if inside.iteration is None else f", first in iteration {inside.iteration} (counted from 0)"
    part = f", {_part(inside.node)}" if RULE in inside.node.metadata_props else ""
    return "\n    ".join((f"  inside it: {describe(inside.node)}{part}{where}", *map(str, inside.infinities)))


def _part(node: ir.Node) -> str:
    rule, forward_node = _belonging(node)
    if rule is not None:
        return f"of the backward part, by the rule of {rule} for the forward node {forward_node!r}"
    return (
        "of the forward part" if forward_node == node.name else f"that computes the forward node {forward_node!r} again"
    )


def _belonging(node: ir.Node) -> tuple[str | None, str | None]:
    """The operator whose rule emitted *node*, if one did, and the name of the forward node."""
    metadata = node.metadata_props
    forward_node = metadata.get(RECOMPUTE) or metadata.get(FORWARD_NODE) or node.name
    return None if RECOMPUTE in metadata else metadata.get(RULE), forward_node


@dataclass(frozen=True)
class Run:
    """A graph and what it was fed: inputs, labels, residuals, seeds and parameters by name; None if that is gone."""

    model: ir.Model
    feeds: Mapping[str, Array] | None

    def anomaly(self, suspects: Sequence[str], providers: Sequence[Provider]) -> Anomaly | None:
        feeds = {name: to_numpy(array) for name, array in (self.feeds or {}).items()}
        return find_anomaly(self.model, feeds, suspects, providers)


def not_finite(results: Mapping[str, Array], may_be_infinite: Sequence[str]) -> list[str]:
    """The names of those of *results* that have NaN, or infinities where they must have none."""
    faults = []
    for name, array in results.items():
        exact = in_float64(to_numpy(array))
        if exact.dtype.kind == "f" and np.any(np.isnan(exact) if name in may_be_infinite else ~np.isfinite(exact)):
            faults.append(name)
    return faults


def explain(faults: Sequence[str], run: Run, forward: Run | None, providers: Sequence[Provider]) -> AnomalyError:
    """The error that says where the outputs *faults* of *run* come to what they are.

    Args:
        forward: the run that gave the residuals that *run* was fed, if it was.
    """
    anomaly = run.anomaly(faults, providers)
    if anomaly is None:
        return AnomalyError(
            f"{faults[0]!r} is not finite, but it is when the graph runs once more: the graph draws random numbers, or "
            "the gradient buffer was not finite before (zero_grad() clears it)"
        )
    if forward is not None:
        anomaly = _into_forward_part(anomaly, forward, providers)
    return AnomalyError(str(anomaly))


def _into_forward_part(anomaly: Anomaly, forward: Run, providers: Sequence[Provider]) -> Anomaly:
    """*anomaly* with what comes from residuals traced on to where these come from, if that is known."""
    made_by = {str(value.name): value.producer() for value in forward.model.graph.outputs}

    def earlier(source: str | None) -> Anomaly | None:
        known = forward.feeds is not None and source is not None and made_by.get(source) is not None
        return forward.anomaly([str(source)], providers) if known else None

    infinities = []
    for each in anomaly.infinities:
        found = earlier(each.origin.name) if isinstance(each.origin, ir.Value) else None
        infinities.append(each if found is None or found.node is None else Infinities(each.name, found.node))
    anomaly = replace(anomaly, infinities=tuple(infinities))
    if anomaly.source is None:
        return anomaly
    return replace(earlier(anomaly.source) or anomaly, result=anomaly.result, made_by=made_by.get(anomaly.source))


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
        origin = find_origin([value], bad, position)
        if isinstance(origin, ir.Value):
            source = str(origin.name)
            array = feeds[source] if source in feeds else _constant(origin)
            return Anomaly(name, kind, None, source, None, None, (Statistics.of(source, array),), (), ())
        read = values_read(origin)
        infinities = infinities_read(origin, has_infinity, position) if kind == "NaN" else ()
        inputs, outputs = _look(model, feeds, read, providers), _look(model, feeds, origin.outputs, providers)
        rule, forward_node = _belonging(origin)
        inside = find_inside(model, origin, kind, feeds, providers)
        return Anomaly(name, kind, origin, None, rule, forward_node, inputs, outputs, infinities, inside)
    return None


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
