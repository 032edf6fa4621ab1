"""What stands in the way of a differentiation is refused by name; so are arguments that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxgrad
from tests.compiler.forward_models import mlp, parse, random, torch_gradients

X, SEED = random(6, 4), random(6, 3, seed=9)

UNREACHED = """
    g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) {
        a = Mul (x, w)
        [rounding] r = Round (v)
        b = Add (a, r)
        y = Tanh (b)
    }"""
UNREACHED_WEIGHTS = {"w": random(3), "v": random(3, seed=1)}


def test_a_named_member_without_gradient_is_refused_and_the_break_is_named() -> None:
    with pytest.raises(onnxgrad.UnsupportedError) as error:
        onnxgrad.compile(parse(UNREACHED, UNREACHED_WEIGHTS), wrt=["w", "v", "z"])
    message = str(error.value)
    assert "'v': the path breaks at Round node 'rounding'" in message
    assert "'z': no differentiated output depends on it" in message
    assert "'w'" not in message
    assert "allow_unused=True" in message


def test_allow_unused_leaves_it_out() -> None:
    program = onnxgrad.compile(parse(UNREACHED, UNREACHED_WEIGHTS), wrt=["w", "v", "z"], allow_unused=True)
    assert program.unused == ("v", "z")
    gradients = program.session().grad({"x": X[:, :3], "z": X[:, :3]}, {"y": SEED})
    assert list(gradients) == ["w"]


def test_materialize_grads_gives_zeros() -> None:
    program = onnxgrad.compile(parse(UNREACHED, UNREACHED_WEIGHTS), wrt=["w", "v", "z"], materialize_grads=True)
    gradients = program.session().grad({"x": X[:, :3], "z": X[:, :3]}, {"y": SEED})
    assert list(gradients) == ["w", "v", "z"]
    np.testing.assert_array_equal(gradients["v"], np.zeros(3, np.float32))
    np.testing.assert_array_equal(gradients["z"], np.zeros((6, 3), np.float32))
    assert np.abs(gradients["w"]).min() > 0


def test_a_pattern_may_match_unused_members_as_long_as_one_is_used() -> None:
    program = onnxgrad.compile(parse(UNREACHED, UNREACHED_WEIGHTS), wrt="inputs")
    assert program.unused == ("z",)
    assert [port.of for port in program.signature.outputs_of("gradient")] == ["x"]
    with pytest.raises(onnxgrad.UnsupportedError, match="path breaks at Round"):
        onnxgrad.compile(parse(UNREACHED, UNREACHED_WEIGHTS), wrt="v")


CUSTOM = """
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] other) {
        a = Mul (x, w)
        [first] b = com.example.Cube (a)
        [second] c = com.example.Swirl (b)
        y = Tanh (c)
        other = Sin (a)
    }"""


def test_all_blockers_are_listed_at_once() -> None:
    with pytest.raises(onnxgrad.UnsupportedError) as error:
        onnxgrad.compile(parse(CUSTOM, {"w": random(3)}))
    message = str(error.value)
    assert "2 nodes on the differentiated path" in message
    assert "com.example.Cube node 'first': no rule is registered" in message
    assert "com.example.Swirl node 'second': no rule is registered" in message
    assert "onnxgrad.Registry" in message


def test_an_unknown_operator_off_the_path_is_no_obstacle() -> None:
    program = onnxgrad.compile(parse(CUSTOM, {"w": random(3)}), outputs="other")
    assert "Swirl" in {node.op_type for node in program.model.graph}
    assert [port.of for port in program.signature.outputs_of("gradient")] == ["w"]


def test_an_operator_of_ones_own_with_a_rule_of_ones_own() -> None:
    rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)
    seen = []

    @rules.vjp("Cube", domain="com.example")
    def cube(n, dy):
        """3 x² dy"""
        seen.append(n.node.op_type)
        (x,) = n.inputs
        return lambda: dy * 3.0 * x * x

    model = parse("g (float[N, 3] x) => (float[N, 3] y) { a = Mul (x, w) y = com.example.Cube (a) }", {"w": random(3)})
    program = onnxgrad.compile(model, rules=rules, wrt=["w", "x"])
    assert seen == ["Cube"]
    (backward,) = [node for node in program.model.graph if node.metadata_props.get("onnxgrad.rule") == "Cube"][-1:]
    assert backward.metadata_props["onnxgrad.pass"] == "differentiate"

    body = onnx.parser.parse_function(
        '<domain: "com.example", opset_import: ["" : 18]> Cube (x) => (y) { s = Mul (x, x) y = Mul (s, x) }'
    )
    proto = ir.to_proto(program.model)
    proto.functions.append(body)
    evaluator = onnx.reference.ReferenceEvaluator(proto)
    x, dy = random(4, 3, seed=1), random(4, 3, seed=2)
    values = evaluator.run(["w.grad", "x.grad"], {"x": x, "w": random(3), "y.grad_output": dy})
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(random(3), requires_grad=True)
    expected_values = torch.autograd.grad((tx * tw) ** 3, [tw, tx], torch.tensor(dy))
    for actual, expected in zip(values, expected_values, strict=True):
        np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_registry_that_is_given_is_not_the_builtin_one() -> None:
    rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)
    rules.nondifferentiable("Tanh", reason="not today")
    with pytest.raises(onnxgrad.UnsupportedError, match="Tanh node 'act': not today"):
        onnxgrad.compile(mlp(), rules=rules, wrt="fc1.weight")
    off_the_path = onnxgrad.compile(mlp(), rules=rules, wrt="fc2.weight").session()
    gradient = off_the_path.grad({"x": X}, {"logits": SEED})["fc2.weight"]
    np.testing.assert_allclose(gradient, torch_gradients(["fc2.weight"], X, SEED)["fc2.weight"], rtol=1e-5, atol=1e-6)


def test_the_path_across_a_blocker_is_shown() -> None:
    model = parse(
        """g (float[N,3] x) => (float[N,3] y) {
            [scaled] a = Mul (x, w)
            [one] b = Exp (a)
            [two] c = Sin (b)
            [three] d = Tanh (c)
            [blocking] e = example.Unheard (d)
            [last] y = Neg (e)
        }""",
        {"w": random(3)},
    )
    model.opset_import.append(onnx.helper.make_opsetid("example", 1))
    with pytest.raises(onnxgrad.UnsupportedError, match="on the path w → … → three → blocking → last → y"):
        onnxgrad.compile(model)


def test_source_lines_that_an_exporter_left_are_named() -> None:
    model = parse(CUSTOM, {"w": random(3)})
    entry = model.graph.node[1].metadata_props.add()
    entry.key = "pkg.torch.onnx.stack_trace"
    entry.value = (
        'File "model.py", line 3, in forward\n    h = a\n  File "cube.py", line 7, in forward\n    self.norm(x)\n'
        '  File "/site-packages/torch/nn/modules/module.py", line 134, in forward\n    return F.linear(x)'
    )
    with pytest.raises(onnxgrad.UnsupportedError, match=r"Cube node 'first' \(File \"cube.py\", line 7, in forward\)"):
        onnxgrad.compile(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "train"}, 'mode is "grad" or "accumulate", not \'train\''),
        ({"wrt": "fc1.wieght"}, "`wrt`: nothing in the model matches 'fc1.wieght'; nearest: fc1.weight"),
        ({"wrt": "encoder.*"}, "nothing in the model matches 'encoder"),
        ({"wrt": []}, "`wrt` names nothing"),
        ({"outputs": "logit"}, "`outputs`: nothing in the model matches 'logit'; nearest: logits"),
        ({"outputs": []}, "`outputs` names nothing"),
        ({"outputs": ["logits", "hidden"], "loss": "mse"}, "A loss takes one output, but `outputs` names 2"),
        ({"loss": "crossentropy"}, "There is no loss 'crossentropy'; nearest: cross_entropy"),
        ({"free_dims": {"bach": 2}}, "no input has a symbolic dim 'bach'; nearest: batch"),
        ({"free_dims": {"batch": 0}}, "batch=0 is no size"),
        ({"free_dims": {"batch": "3"}}, "batch=3 is no size"),
        ({"free_dims": ["batch"]}, "free_dims maps names of dims to sizes"),
        ({"assume_dims": {"bach": 2}}, "assume_dims: no input has a symbolic dim 'bach'; nearest: batch"),
        ({"opset": 17}, "opset is 18 to 26, not 17"),
        ({"opset": "20"}, "opset is 18 to 26, not '20'"),
        ({"wrt": 3}, "Values are named by a string, or by several; 3 is neither"),
        ({"memory_budget": "4GB"}, "`memory_budget` is a number of bytes, not '4GB'"),
        ({"checkpoint": []}, "`checkpoint` names nothing"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxgrad.InputError) as error:
        onnxgrad.compile(mlp(), **arguments)
    assert message in str(error.value)


COUNTED = """
    g (float[N, 3] x) => (float[N, 3] a, int64[N] c) {
        a = Mul (x, w)
        c = ArgMax <axis = 1, keepdims = 0> (a)
    }"""


def test_integers_have_no_gradient() -> None:
    model = parse("g (int64[N] i) => (float[N, 3] y) { y = Gather (w, i) }", {"w": random(5, 3)})
    with pytest.raises(onnxgrad.UnsupportedError, match="'i' has element type INT64; only floating-point"):
        onnxgrad.compile(model, wrt="i")
    with pytest.raises(onnxgrad.InputError, match="no float input; name an intermediate value"):
        onnxgrad.compile(model, wrt="inputs")
    counted = parse(COUNTED, {"w": random(3)})
    with pytest.raises(onnxgrad.UnsupportedError, match="'c' has element type INT64"):
        onnxgrad.compile(counted, outputs="c")
    with pytest.raises(onnxgrad.InputError, match="no float output"):
        onnxgrad.compile(parse("g (float[3] x) => (bool[3] y) { y = Less (x, w) }", {"w": random(3)}), wrt="w")
    with pytest.raises(onnxgrad.InputError, match="No initializer of the model acts as a weight"):
        onnxgrad.compile(parse("g (float[3] x) => (float[3] y) { y = Sin (x) }"))
