"""Where the time of a step goes: ONNX Runtime's profile of a joint graph, by forward node and by rule."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..compiler.program import Program
from ..passes.errors import Error
from .attribution import Attribution, JointGraph
from .device import Provider, resolve_providers
from .executor import create_session, session_options
from .feeds import Array
from .session import Session

WARM_UP = 2
"""Runs before those that are counted: the first ones allocate memory."""
MOST_RECORDS = 1_000_000
"""ONNX Runtime's profiler keeps no more than so many, and drops what comes after."""


@dataclass(frozen=True)
class Kernel:
    """A node that the runtime ran.

    Attributes:
        name: of the node in the runtime's optimized graph.
        operator: of the node; the runtime has some of its own (FusedConv).
        provider: the execution provider that ran it.
        milliseconds: the median of the steps. A node with subgraphs includes theirs.
        attribution: what it is counted under, None if that cannot be told.
    """

    name: str
    operator: str
    provider: str
    milliseconds: float
    attribution: Attribution | None


@dataclass(frozen=True)
class Share:
    """Milliseconds a step of what is counted under one name."""

    name: str
    operator: str
    forward: float
    backward: float
    recomputed: float
    kernels: tuple[tuple[str, float], ...]
    """What ran for the backward part and for what is computed again, by the runtime's operator, the longest first."""

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recomputed


@dataclass(frozen=True)
class Profile:
    """The profile of a program's step, forward and backward, in its own mode.

    Attributes:
        steps: how many were measured.
        step: milliseconds of one, the runtime's work between kernels included; the median.
        kernels: every node that ran.
        source_lines: by the name of a forward node, where its exporter left one.
    """

    steps: int
    step: float
    kernels: tuple[Kernel, ...]
    source_lines: Mapping[str, str]

    @property
    def total(self) -> float:
        """Milliseconds of all kernels of a step."""
        return sum(kernel.milliseconds for kernel in self.kernels)

    @property
    def unattributed(self) -> list[Kernel]:
        return [kernel for kernel in self.kernels if kernel.attribution is None]

    def by_operator(self) -> list[Share]:
        """The shares of the forward operators, each with its rule's, the largest first."""
        return _shares(self.kernels, lambda attribution: attribution.origin.operator)

    def by_forward_node(self) -> list[Share]:
        """The shares of the forward nodes, each with those of its backward nodes, the largest first."""
        return _shares(self.kernels, lambda attribution: attribution.origin.forward_node)

    def merged(self) -> dict[str, float]:
        """Milliseconds of kernels that do the work of several operators, by what they merge (`Conv + Relu`)."""
        found: dict[str, float] = {}
        for kernel in self.kernels:
            if kernel.attribution is not None:
                own = kernel.attribution.origin.operator
                others = sorted({origin.operator for origin in kernel.attribution.merged} - {own})
                if others:
                    label = " + ".join([own, *others])
                    found[label] = found.get(label, 0.0) + kernel.milliseconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def profile_step(
    program: Program,
    inputs: Mapping[str, Array],
    grad_outputs: Mapping[str, Array] | None = None,
    *,
    steps: int = 10,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
) -> Profile:
    """Run *program* in its own mode under ONNX Runtime's profiler.

    The runtime optimizes the joint graph as it does for a Session; what it then runs is written out, each of its
    nodes is given a name of its own, and that graph is profiled, so that every record says which node it is of. On a
    GPU the records are the times of launching kernels, as the runtime's profiler sees them.

    Args:
        inputs, grad_outputs: as `Session.grad` takes them.
        steps: how many are measured; fewer where the profiler could not hold their records.
        providers, threads: as for a session.

    Raises InputError for inputs that do not fit, and Error when the runtime cannot write, run or record its graph.
    """
    chosen = resolve_providers(providers)
    joint = JointGraph(program)
    with tempfile.TemporaryDirectory() as folder:
        model = _optimized(program, Path(folder) / "optimized.onnx", chosen, threads)
        nodes = _name_apart(model)
        options = session_options(threads)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = Session(Program(model, program.signature), providers=chosen, options=options)
        steps = max(1, min(steps, MOST_RECORDS // (len(nodes) + 10) - WARM_UP))
        accumulates = program.signature.mode == "accumulate"
        for _ in range(WARM_UP + steps):
            if accumulates:
                session.backward(inputs, grad_outputs)
            else:
                session.value_and_grad(inputs, grad_outputs)
        records = json.loads(session.executor(program.signature.mode).end_profiling().read_text())
    if len(records) >= MOST_RECORDS:
        raise Error("ONNX Runtime's profiler cannot hold so many records; profile shorter loops")
    attributions = joint.attribute(model.graph)
    by_name = {str(node.name): attributions.get(node) for node in model.graph}
    inner = nodes - by_name.keys()
    kernels = _kernels((record for record in records if _kernel_name(record) not in inner), by_name)
    runs = [record["dur"] for record in records if record.get("name") == "model_run"]
    return Profile(steps, float(np.median(runs[WARM_UP:])) / 1e3, kernels, joint.source_lines())


def _optimized(program: Program, path: Path, providers: Sequence[Provider], threads: int | None) -> ir.Model:
    """The graph that the runtime makes of the joint graph, with the parameters' values."""
    options = session_options(threads)
    options.optimized_model_filepath = str(path)
    create_session(program.executable(), providers, options)
    try:
        model = ir.load(path)
    except Exception as error:
        raise Error(f"ONNX Runtime did not write the graph that it runs: {error}") from error
    inputs = {value.name: value for value in model.graph.inputs}
    for name, array in program.parameters.items():
        inputs[name].const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(inputs[name])
    return model


def _name_apart(model: ir.Model) -> set[str]:
    """Give every node, in subgraphs too, a name that no other has; the names."""
    names: set[str] = set()
    for index, node in enumerate(model.graph.all_nodes()):
        if not node.name or node.name in names:
            node.name = f"{node.name or node.op_type}#{index}"
        names.add(node.name)
    return names


def _kernel_name(record: Mapping[str, Any]) -> str | None:
    """The name of the node that *record* of the profile is of, None if it is of none."""
    if record.get("cat") != "Node" or not record["name"].endswith("_kernel_time"):
        return None
    return str(record["name"]).removesuffix("_kernel_time")


def _kernels(
    records: Iterable[Mapping[str, Any]], attributions: Mapping[str, Attribution | None]
) -> tuple[Kernel, ...]:
    durations: dict[str, list[float]] = {}
    described: dict[str, tuple[str, str]] = {}
    for record in records:
        name = _kernel_name(record)
        if name is not None:
            durations.setdefault(name, []).append(record["dur"] / 1e3)
            described[name] = (record["args"]["op_name"], record["args"].get("provider", ""))
    return tuple(
        Kernel(name, *described[name], float(np.median(times[WARM_UP:])), attributions.get(name))
        for name, times in durations.items()
    )


def _shares(kernels: Sequence[Kernel], key: Callable[[Attribution], str]) -> list[Share]:
    groups: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if kernel.attribution is not None:
            groups.setdefault(key(kernel.attribution), []).append(kernel)
    shares = []
    for name, group in groups.items():
        phases = {"forward": 0.0, "backward": 0.0, "recomputed": 0.0}
        inside: dict[str, float] = {}
        for kernel in group:
            assert kernel.attribution is not None
            phase = kernel.attribution.origin.phase
            phases[phase] += kernel.milliseconds
            if phase != "forward":
                inside[kernel.operator] = inside.get(kernel.operator, 0.0) + kernel.milliseconds
        first = group[0].attribution
        assert first is not None
        ranked = tuple(sorted(inside.items(), key=lambda item: -item[1]))
        shares.append(Share(name, first.origin.operator, **phases, kernels=ranked))
    return sorted(shares, key=lambda share: -share.total)
