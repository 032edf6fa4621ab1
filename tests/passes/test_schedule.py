"""The order in which the runtime executes a graph, and the order in the file that makes it a good one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxgrad.passes.execution_order import execution_order
from onnxgrad.passes.peak_memory import estimate_peak
from onnxgrad.passes.schedule import Schedule

from .running import check_pass, parse


def random_graph(seed: int, nodes: int = 16) -> ir.Model:
    """Additions of earlier values, two at a time, and branches of which one captures an earlier value."""
    pick = random.Random(seed)
    values, lines, read = ["x"], [], set()
    for index in range(nodes):
        a, b = pick.choice(values), pick.choice(values)
        read |= {a, b}
        if pick.random() < 0.1:
            branches = ", ".join(
                f"{kind}_branch = g{index}{kind} () => (float[2] {kind}{index}) {{ {kind}{index} = Neg ({value}) }}"
                for kind, value in (("then", a), ("else", b))
            )
            lines.append(f"v{index} = If (c) <{branches}>")
        else:
            lines.append(f"v{index} = Add ({a}, {b})")
        values.append(f"v{index}")
    outputs = [value for value in values[1:] if value not in read or pick.random() < 0.2]
    pick.shuffle(outputs)
    declared = ", ".join(f"float[2] {value}" for value in outputs)
    model = parse(f"g (float[2] x, bool c) => ({declared}) {{ {'; '.join(lines)}; }}".replace(";", "\n"))
    for node in model.graph:
        node.name = f"node {node.outputs[0].name}"
    return model


FEEDS = {"x": np.ones(2, np.float32), "c": np.array(True)}


def executed(model: ir.Model, folder: Path) -> list[str]:
    """The names of the nodes in the order of the runtime's own profile."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, FEEDS)
    events = json.loads(Path(session.end_profiling()).read_text())
    names = {node.name for node in model.graph}
    kernels = [event["name"].removesuffix("_kernel_time") for event in events if "_kernel_time" in event["name"]]
    return [name for name in kernels if name in names]


@pytest.mark.parametrize("seed", range(8))
def test_the_runtime_executes_in_this_order(seed: int, tmp_path: Path) -> None:
    model = random_graph(seed)
    assert [node.name for node in execution_order(model.graph)] == executed(model, tmp_path)


@pytest.mark.parametrize("seed", range(8))
def test_values_stay_and_the_estimate_does_not_rise(seed: int) -> None:
    model = random_graph(seed)
    before = estimate_peak(model.graph).bytes
    check_pass(Schedule(), model, FEEDS)
    assert estimate_peak(model.graph).bytes <= before


MLP = """g (float[256, 256] x, float[256, 256] w0, float[256, 256] w1, float[256, 256] w2)
    => (float d0, float d1, float d2) {
        a = MatMul (x, w0)
        b = MatMul (a, w1)
        c = MatMul (b, w2)
        g2 = MatMul (c, b)
        d2 = ReduceSum <keepdims = 0> (g2)
        gb = MatMul (c, w2)
        g1 = MatMul (gb, a)
        d1 = ReduceSum <keepdims = 0> (g1)
        ga = MatMul (gb, w1)
        g0 = MatMul (ga, x)
        d0 = ReduceSum <keepdims = 0> (g0)
    }"""


def test_gradients_are_made_as_soon_as_they_can_be() -> None:
    model = parse(MLP)
    outputs = [value.name for value in model.graph.outputs]
    Schedule().call(model)
    assert [node.outputs[0].name for node in model.graph][-3:] == ["d0", "d1", "d2"]
    order = [node.outputs[0].name for node in execution_order(model.graph)]
    assert order.index("d2") < order.index("gb") < order.index("d1") < order.index("ga") < order.index("d0")
    assert [value.name for value in model.graph.outputs] == outputs


def test_what_is_computed_again_waits_for_the_cotangent() -> None:
    """Both orders in the file are sorted; only in one of them the runtime computes `again` after `deep`."""
    model = parse("""g (float[256, 256] x) => (float[256, 256] y) {
        small = ReduceSum <keepdims = 1> (x)
        a = Exp (x)
        b = MatMul (a, a)
        deep = MatMul (a, b)
        again = Add (x, small)
        y = Mul (deep, again)
    }""")
    before = estimate_peak(model.graph).bytes
    Schedule().call(model)
    order = [node.outputs[0].name for node in execution_order(model.graph)]
    assert order.index("deep") < order.index("again")
    assert estimate_peak(model.graph).bytes == before - 4 * 256**2


def test_the_peak_and_what_it_is_made_of() -> None:
    model = parse("""g (float[B, 64] x) => (float[B, 64] y) <int64[2] shape = {-1, 32}, int64[2] back = {-1, 64}> {
        a = Exp (x)
        v = Reshape (a, shape)
        r = Relu (v)
        s = Sin (r)
        y = Reshape (s, back)
    }""")
    peak = estimate_peak(model.graph, {"B": 100})
    # A view and Relu take no memory of their own; the output does, though it is a view.
    assert peak.bytes == 2 * 100 * 64 * 4
    assert dict(peak.live) in ({"a": 25600, "s": 25600}, {"s": 25600, "y": 25600})
    assert estimate_peak(model.graph, {"B": 200}).bytes == 2 * peak.bytes


def test_what_a_runtime_folds_takes_no_memory(tmp_path: Path) -> None:
    """The zeros are an initializer when the graph runs, which is not written over; the folded output is written."""
    model = parse("""g (float[2] x, bool c, int64[1, 1] i) => (float[1, 8192] y, float[1, 8192] z)
    <float zero = {0}, int64[2] n = {1, 8192}> {
        zeros = Expand (zero, n)
        flat = Reshape (zeros, n)
        more = Exp (flat)
        one = ReduceSum <keepdims = 0> (x)
        rows = Expand (one, n)
        y = ScatterElements <axis = 1, reduction = "add"> (more, i, rows)
        z = Identity (more)
    }""")
    assert estimate_peak(model.graph).bytes == 3 * 4 * 8192
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    assert not {"Exp", "Reshape"} & {node.op_type for node in loaded.node}
