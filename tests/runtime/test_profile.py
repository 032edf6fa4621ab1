"""Profiles of real runs: nothing of what the runtime recorded is lost, and all of it is under the right name."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import onnxgrad
from onnxgrad.passes.differentiate import RULE
from onnxgrad.runtime.attribution import JointGraph
from onnxgrad.runtime.executor import Executor
from onnxgrad.runtime.profile import WARM_UP, Profile, profile_step
from onnxgrad.runtime.sample_inputs import sample_inputs, sample_seeds
from tests.compiler.forward_models import mlp, parse, random

DIGITS = Path(__file__).parents[2] / "models" / "digits.onnx"

Recorded = tuple[Profile, dict[str, float]]


def profiled(program: onnxgrad.Program, monkeypatch: pytest.MonkeyPatch, **sizes: int) -> Recorded:
    """A profile, and what the runtime itself recorded: milliseconds a step of each of its nodes, by their names."""
    records: list[dict[str, Any]] = []
    end_profiling = Executor.end_profiling

    def keep(executor: Executor) -> Path:
        path = end_profiling(executor)
        records.extend(json.loads(path.read_text()))
        return path

    monkeypatch.setattr(Executor, "end_profiling", keep)
    inputs = sample_inputs(program, sizes)
    seeds = sample_seeds(program.session(), inputs)
    profile = profile_step(program, inputs, seeds, steps=3, threads=1)
    times: dict[str, list[float]] = {}
    for record in records:
        if record["cat"] == "Node":
            times.setdefault(record["name"].removesuffix("_kernel_time"), []).append(record["dur"] / 1e3)
    return profile, {name: statistics.median(values[WARM_UP:]) for name, values in times.items()}


@pytest.fixture(scope="module")
def digits() -> Recorded:
    program = onnxgrad.compile(DIGITS, loss="cross_entropy", mode="accumulate")
    with pytest.MonkeyPatch.context() as monkeypatch:
        profile, recorded = profiled(program, monkeypatch, batch=16)
    # The time of an If includes that of its branch, whose nodes bear its prefix and have records of their own.
    kernels = {kernel.name for kernel in profile.kernels}
    branches = tuple(name.removesuffix("If") for name in kernels if name.endswith("/If"))
    inner = {name for name in recorded.keys() - kernels if name.startswith(branches)}
    return profile, {name: time for name, time in recorded.items() if name not in inner}


def test_every_millisecond_is_attributed_once(digits: Recorded) -> None:
    profile, recorded = digits
    assert profile.unattributed == []
    assert {kernel.name: kernel.milliseconds for kernel in profile.kernels} == recorded
    total = sum(recorded.values())
    assert profile.total == pytest.approx(total)
    assert sum(share.total for share in profile.by_operator()) == pytest.approx(total)
    assert sum(share.total for share in profile.by_forward_node()) == pytest.approx(total)
    assert 0 < profile.total < profile.step
    for share in profile.by_operator():
        assert sum(time for _, time in share.kernels) == pytest.approx(share.backward + share.recomputed)


def of_forward_node(recorded: Mapping[str, float], name: str) -> float:
    """The time of a forward node: one kernel, or several where it is laid out in blocks."""
    return recorded.get(name, 0.0) + starting_with(recorded, f"{name}/")


def starting_with(recorded: Mapping[str, float], prefix: str) -> float:
    return sum(time for name, time in recorded.items() if name.startswith(prefix))


def test_backward_nodes_count_under_their_rule(digits: Recorded) -> None:
    """Emitted nodes are named after their forward node, so the records' names say what belongs to a convolution."""
    profile, recorded = digits
    shares = {share.name: share for share in profile.by_operator()}
    named = starting_with(recorded, "node_conv2d.grad/") + starting_with(recorded, "node_conv2d_1.grad/")
    assert shares["Conv"].backward == pytest.approx(named)
    assert shares["MaxPool"].backward == pytest.approx(starting_with(recorded, "node_max_pool2d.grad/"))
    assert "ScatterElements" in dict(shares["MaxPool"].kernels)
    buffers = sum(time for name, time in recorded.items() if name.endswith("/accumulate"))
    assert shares["(gradient buffers)"].backward == pytest.approx(buffers)


def test_forward_nodes_that_the_runtime_merges(digits: Recorded) -> None:
    profile, recorded = digits
    shares = {share.name: share for share in profile.by_operator()}
    convolutions = [of_forward_node(recorded, name) for name in ("node_conv2d", "node_conv2d_1")]
    assert shares["Conv"].forward == pytest.approx(sum(convolutions))
    assert shares["Relu"].forward == pytest.approx(recorded["node_relu_1"]), (
        "behind the pooling; the others run inside of Conv and Gemm"
    )
    assert profile.merged().keys() == {"Conv + Relu", "Gemm + Relu"}
    assert profile.merged()["Conv + Relu"] == pytest.approx(convolutions[0])
    # The runtime has no kernel of the loss: it is written in primitives, which count as the loss.
    assert shares["SoftmaxCrossEntropyLoss"].forward > 0
    present = {node.op_type for node in onnxgrad.compile(DIGITS, loss="cross_entropy").model.graph}
    assert shares.keys() <= present | {"(gradient buffers)", "SoftmaxCrossEntropyLoss"}
    assert {"GatherElements", "Squeeze"}.isdisjoint(shares)


def test_forward_nodes_have_their_source(digits: Recorded) -> None:
    profile, _ = digits
    nodes = {share.name: share for share in profile.by_forward_node()}
    assert nodes["node_conv2d_1"].operator == "Conv"
    assert nodes["node_conv2d_1"].forward > 0
    assert nodes["node_conv2d_1"].backward > 0
    assert profile.source_lines["node_conv2d_1"] == 'File "models/export_digits.py", line 25, in forward'


def test_a_matrix_product_that_the_runtime_makes_of_several_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = """g (float[8, 16, 32] x) => (float[8, 16, 8] y) {
        [product] xw = MatMul (x, w)
        [shift] y = Add (xw, b)
    }"""
    program = onnxgrad.compile(parse(graph, {"w": random(32, 8), "b": random(8)}), loss="mse")
    profile, _ = profiled(program, monkeypatch)
    fused = [kernel for kernel in profile.kernels if kernel.operator == "Gemm" and "product.grad" not in kernel.name]
    assert fused
    for kernel in fused:
        assert kernel.attribution is not None
        assert kernel.attribution.origin.operator == "MatMul"
        assert {origin.forward_node for origin in kernel.attribution.merged} == {"product", "shift"}
    assert profile.unattributed == []


def test_what_is_computed_again_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = """g (float[2, 1, 128, 64] x) => (float[2, 8, 128, 64] y) <int64[4] sizes = {1, 8, 1, 1}> {
        scaled = Mul (x, w)
        [repeat] repeated = Expand (scaled, sizes)
        [sine] y = Sin (repeated)
    }"""
    profile, recorded = profiled(onnxgrad.compile(parse(graph, {"w": random(64)})), monkeypatch)
    nodes = {share.name: share for share in profile.by_forward_node()}
    (again,) = [time for name, time in recorded.items() if name.startswith("repeat/recompute")]
    assert nodes["repeat"].recomputed == pytest.approx(again)
    assert nodes["repeat"].forward == pytest.approx(recorded["repeat"])
    assert nodes["sine"].recomputed == 0
    assert nodes["sine"].backward > 0


def test_the_nodes_of_a_loop_are_counted_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": random(1, 64, 4), "r": random(1, 64, 16)}
    graph = """g (float[T, N, 4] x) => (float[T, 1, N, 16] y) { [lstm] y = LSTM <hidden_size = 16> (x, w, r) }"""
    profile, recorded = profiled(onnxgrad.compile(parse(graph, weights)), monkeypatch, T=6, N=3)
    (share,) = [share for share in profile.by_operator() if share.name == "LSTM"]
    assert share.backward > 0
    inner = recorded.keys() - {kernel.name for kernel in profile.kernels}
    assert inner, "the body's nodes have records of their own, which the loop's includes"
    assert {kernel.operator for kernel in profile.kernels} & {"Scan", "Loop"}
    assert profile.unattributed == []
    assert profile.total < profile.step


def test_a_joint_graph_that_was_compiled_again_is_forward() -> None:
    first = onnxgrad.compile(mlp(), loss="mse", wrt="inputs")
    names = {node.outputs[0].name for node in first.model.graph if RULE in node.metadata_props}
    second = onnxgrad.compile(first.model, outputs="x.grad", wrt="x")
    joint = JointGraph(second)
    phases = {node.outputs[0].name: joint.origin(node).phase for node in second.model.graph}
    shared = names & phases.keys()
    assert shared
    assert {phases[name] for name in shared} == {"forward"}
    assert "backward" in phases.values()
