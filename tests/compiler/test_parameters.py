"""Which initializers are taken for parameters, without being told."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.compiler.normalize import normalize
from onnxgrad.compiler.parameters import select_outputs, select_wrt
from onnxgrad.compiler.pipeline import Pipeline
from onnxgrad.passes.errors import InputError
from onnxgrad.passes.rules import BUILTIN_RULES
from tests.compiler.forward_models import mlp, parse, random


def parameters_of(graph: str, initializers: dict[str, np.ndarray]) -> list[str]:
    model = ir.from_proto(parse(graph, initializers))
    return [str(value.name) for value in normalize(Pipeline(model), BUILTIN_RULES, {})]


def test_weights_in_all_their_places() -> None:
    weights = {
        "embed.weight": random(7, 4),
        "proj": random(4, 4),
        "bias": random(4),
        "norm.weight": random(4),
        "norm.bias": random(4),
        "gate.weight": random(4),
        "transposed": random(6, 4),
    }
    graph = """g (int64[N] ids) => (float[N, 6] y) {
        e = Gather ("embed.weight", ids)
        m = MatMul (e, proj)
        a = Add (m, bias)
        n = LayerNormalization (a, "norm.weight", "norm.bias")
        s = Mul (n, "gate.weight")
        t = Transpose (transposed)
        y = MatMul (s, t)
    }"""
    assert parameters_of(graph, weights) == list(weights)


def test_weights_of_convolutions_and_recurrent_layers() -> None:
    weights = {
        "conv.weight": random(4, 2, 3),
        "conv.bias": random(4),
        "gru.w": random(1, 9, 4),
        "gru.r": random(1, 9, 3),
        "gru.b": random(1, 18),
    }
    graph = """g (float[N, 2, 8] x) => (float[S, 1, N, 3] y) {
        c = Conv <kernel_shape = [3]> (x, "conv.weight", "conv.bias")
        t = Transpose <perm = [2, 0, 1]> (c)
        y = GRU <hidden_size = 3> (t, "gru.w", "gru.r", "gru.b")
    }"""
    assert parameters_of(graph, weights) == list(weights)


def test_an_untrained_normalization_keeps_its_ones_and_zeros() -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    scale, shift = np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32)
    weights = {"norm_s": ones, "norm_b": zeros, "scale_s": scale, "scale_b": shift}
    graph = """g (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
        n = BatchNormalization (x, norm_s, norm_b, mean, variance)
        m = Mul (n, scale_s)
        y = Add (m, scale_b)
    }"""
    found = parameters_of(graph, weights | {"mean": zeros, "variance": ones})
    # Zeros that are only added, under a name of no module, may as well be a mask that an exporter computed.
    assert found == ["norm_s", "norm_b", "scale_s"]


def test_initial_states_of_zeros_are_left_out_and_learned_ones_found() -> None:
    weights = {"gru.w": random(1, 9, 4), "gru.r": random(1, 9, 3), "start": random(1, 2, 3)}
    graph = """g (float[S, 2, 4] x) => (float[S, 1, 2, 3] y, float[S, 1, 2, 3] z) {
        y = GRU <hidden_size = 3> (x, "gru.w", "gru.r", , , val_7)
        z = GRU <hidden_size = 3> (x, "gru.w", "gru.r", , , start)
    }"""
    assert parameters_of(graph, weights | {"val_7": np.zeros((1, 2, 3), np.float32)}) == list(weights)


def test_constants_are_left_out() -> None:
    graph = """g (float[N, 1, 4, 4] x, float[N, 4, 4] scores) => (float[N, 2, 8, 8] y, float[N, 4, 4] attention) {
        c = Conv <kernel_shape = [1, 1]> (x, "conv.weight")
        n = BatchNormalization (c, "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        e = Add (n, epsilon)
        y = Resize <mode = "nearest"> (e, , scales)
        masked = Add (scores, mask)
        attention = Softmax (masked)
    }"""
    initializers = {
        "conv.weight": random(2, 1, 1, 1),
        "bn.weight": random(2),
        "bn.bias": random(2),
        "bn.running_mean": random(2),
        "bn.running_var": np.ones(2, np.float32),
        "epsilon": np.array(1e-5, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "mask": np.triu(np.full((4, 4), np.float32(-3e38)), 1),
    }
    assert parameters_of(graph, initializers) == ["conv.weight", "bn.weight", "bn.bias"]


@pytest.mark.parametrize(("name", "taken"), [("head.logit_scale", True), ("scale", False), ("val_3", False)])
def test_single_elements_are_parameters_if_named_like_a_modules(name: str, taken: bool) -> None:
    found = parameters_of(
        f'g (float[N, 3] x) => (float[N, 3] y) {{ y = Mul (x, "{name}") }}', {name: np.array([2], np.float32)}
    )
    assert found == ([name] if taken else [])


def test_rotary_tables_are_left_out() -> None:
    angles = np.outer(np.arange(6), [1.0, 0.1]).astype(np.float32)
    graph = """g (float[N, 6, 2] x) => (float[N, 6, 2] y) {
        a = Mul (x, unsqueeze_1)
        b = Mul (x, unsqueeze_2)
        c = Add (a, b)
        y = Mul (c, "norm.weight")
    }"""
    initializers = {"unsqueeze_1": np.cos(angles), "unsqueeze_2": np.sin(angles), "norm.weight": random(2)}
    assert parameters_of(graph, initializers) == ["norm.weight"]


def test_integers_are_left_out() -> None:
    graph = "g (float[N, 6] x) => (float[N, 2] y) { t = Gather <axis = 1> (x, columns) y = Mul (t, w) }"
    assert parameters_of(graph, {"columns": np.array([0, 2]), "w": random(2)}) == ["w"]


def test_weights_that_constant_nodes_hold_and_those_listed_as_inputs() -> None:
    """As exporters of old write them: a Constant node, and an initializer that is a graph input too."""
    proto = parse(
        """g (float[N, 2] x, float[2] "fc.bias") => (float[N, 2] y) {
            "fc.weight" = Constant <value = float[2, 2] {1.0, 2.0, 3.0, 4.0}> ()
            m = MatMul (x, "fc.weight")
            y = Add (m, "fc.bias")
        }""",
        {"fc.bias": random(2)},
    )
    model = ir.from_proto(proto)
    found = normalize(Pipeline(model), BUILTIN_RULES, {})
    assert sorted(str(value.name) for value in found) == ["fc.bias", "fc.weight"]
    assert [value.name for value in model.graph.inputs] == ["x"]


@pytest.fixture
def graph() -> ir.Graph:
    return ir.from_proto(mlp()).graph


def parameters(graph: ir.Graph) -> list[ir.Value]:
    return list(graph.initializers.values())


@pytest.mark.parametrize(
    ("wrt", "selected", "named"),
    [
        ("parameters", ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"], []),
        ("inputs", ["x"], []),
        ("fc?.bias", ["fc1.bias", "fc2.bias"], []),
        (["pre", "fc[2]*", "fc2.bias"], ["pre", "fc2.weight", "fc2.bias"], ["pre", "fc2.bias"]),
        (["*"], ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "x"], []),
    ],
)
def test_selection(graph: ir.Graph, wrt: str | list[str], selected: list[str], named: list[str]) -> None:
    chosen, one_by_one = select_wrt(graph, wrt, parameters(graph))
    assert [value.name for value in chosen] == selected
    assert sorted(str(value.name) for value in one_by_one) == sorted(named)


def test_a_pattern_prefers_parameters_and_falls_back_to_any_initializer(graph: ir.Graph) -> None:
    without_biases = [value for value in parameters(graph) if "bias" not in str(value.name)]
    assert [v.name for v in select_wrt(graph, "fc1.*", without_biases)[0]] == ["fc1.weight"]
    assert [v.name for v in select_wrt(graph, "*.bias", without_biases)[0]] == ["fc1.bias", "fc2.bias"]


def test_outputs(graph: ir.Graph) -> None:
    assert [value.name for value in select_outputs(graph, None)] == ["logits"]
    assert [value.name for value in select_outputs(graph, ["hidden", "logits", "hidden"])] == ["hidden", "logits"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: select_wrt(g, "fc3.weight", parameters(g)), "nearest: fc2.weight, fc1.weight"),
        (lambda g: select_wrt(g, "zzz", parameters(g)), "the model has, for instance, fc1.bias, fc1.weight"),
        (lambda g: select_wrt(g, "parameters", []), "No initializer of the model acts as a weight"),
        (lambda g: select_outputs(g, "hiden"), "nearest: hidden"),
    ],
)
def test_what_matches_nothing_is_refused(graph: ir.Graph, call, message: str) -> None:
    with pytest.raises(InputError) as error:
        call(graph)
    assert message in str(error.value)
