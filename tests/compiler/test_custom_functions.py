"""Rules that a model brings along as functions, and rules in Python: for own operators, or over built-in ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxgrad
from tests.compiler.forward_models import parse, random
from tests.transforms.running import run

X, SEED = random(3, 4, seed=1), random(3, 4, seed=2)

SILU = """
<domain: "my.ops", opset_import: ["" : 20]>
SiLU (x) => (y) { s = Sigmoid (x) y = Mul (x, s) }

<domain: "my.ops", opset_import: ["" : 20]>
SiLU_vjp (x, y, dy) => (dx) {
    s = Sigmoid (x)
    one = Constant <value = float {1}> ()
    kept = Sub (one, s)
    bent = Mul (y, kept)
    slope = Add (s, bent)
    twice = Constant <value = float {FACTOR}> ()
    steep = Mul (slope, twice)
    dx = Mul (dy, steep)
}
"""


def parse_with_vjp(text: str) -> onnx.ModelProto:
    """ONNX's text syntax has no dots in names."""
    parsed = onnx.parser.parse_model(text)
    for function in parsed.functions:
        function.name = function.name.replace("_vjp", ".vjp")
    return parsed


def model(functions: str, node: str = "h = my.ops.SiLU (a)", opset: int = 20) -> onnx.ModelProto:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}, "my.ops" : 1, "com.microsoft" : 1]>
    g (float[N, 4] x) => (float[N, 4] y) <float[N, 4] a, float[N, 4] h> {{ a = Mul (x, w) {node} y = Mul (h, v) }}
    {functions}"""
    parsed = parse_with_vjp(text)
    for name in ("w", "v"):
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(random(4, seed=ord(name)), name))
    return parsed


def torch_gradients(factor: float = 1.0) -> dict[str, np.ndarray]:
    x, w, v = (torch.tensor(a, requires_grad=True) for a in (X, random(4, seed=ord("w")), random(4, seed=ord("v"))))
    a = x * w
    h = torch.nn.functional.silu(a)
    # The factor is that of the rule, not of the function.
    h = h * factor + (h * (1 - factor)).detach()
    grads = torch.autograd.grad(h * v, [x, w, v], torch.tensor(SEED))
    return dict(zip(("x", "w", "v"), (g.numpy() for g in grads), strict=True))


@pytest.mark.parametrize("opset", [18, 20, 22])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_pair_of_functions_in_the_file(factor: float, opset: int, tmp_path: Path) -> None:
    path = tmp_path / "silu.onnx"
    functions = SILU.replace("FACTOR", str(factor)).replace('"" : 20', f'"" : {opset}')
    onnx.save(model(functions, opset=opset), path)
    program = onnxgrad.compile(path, wrt=["x", "w", "v"])
    found = program.session().grad({"x": X}, {"y": SEED})
    for name, expected in torch_gradients(factor).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    assert {node.domain for node in program.model.graph} == {""}
    assert not program.model.functions


@pytest.mark.parametrize("transform", [onnxgrad.vjp, onnxgrad.jvp, onnxgrad.jacobian])
def test_transformations_use_the_pair(transform: Any) -> None:
    feeds = {"x": X, "y.grad_output": SEED, "x.tangent": random(3, 4, seed=4)}
    once, tripled = (run(transform(model(SILU.replace("FACTOR", factor))), feeds) for factor in ("1", "3"))
    names = [name for name in once if name != "y"]
    assert names
    for name in names:
        np.testing.assert_allclose(tripled[name], 3 * once[name], rtol=1e-5, atol=1e-6)


def test_an_output_that_the_pairs_operator_computes() -> None:
    """Also as an intermediate value with respect to which there is a gradient."""
    own = parse_with_vjp(f"""<ir_version: 10, opset_import: ["" : 20, "my.ops" : 1]>
        g (float[2] x) => (float[2] y) <float[2] h> {{ h = my.ops.SiLU (x) y = my.ops.SiLU (h) }}
        {SILU.replace("FACTOR", "1")}""")
    x = random(2, seed=3)
    dense = run(onnxgrad.jacobian(own, wrt=["x", "h"]), {"x": x})
    tx = torch.tensor(x)
    silu = torch.nn.functional.silu
    np.testing.assert_allclose(dense["y.jacobian.x"], torch.func.jacrev(lambda x: silu(silu(x)))(tx), rtol=1e-5)
    np.testing.assert_allclose(dense["y.jacobian.h"], torch.func.jacrev(silu)(silu(tx)), rtol=1e-5)


def test_the_pairs_rule_can_be_differentiated_again() -> None:
    silu = model(SILU.replace("FACTOR", "1"))
    first = onnxgrad.vjp(silu)
    second = onnxgrad.jvp(first, wrt=["x"], outputs=["x.grad"])
    t = random(3, 4, seed=4)
    found = run(second, {"x": X, "y.grad_output": SEED, "x.tangent": t})["x.grad.tangent"]
    w, v = torch.tensor(random(4, seed=ord("w"))).double(), torch.tensor(random(4, seed=ord("v"))).double()

    def weighted(x: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.silu(x * w) * v * torch.tensor(SEED).double()).sum()

    expected = torch.func.jvp(torch.func.grad(weighted), (torch.tensor(X).double(),), (torch.tensor(t).double(),))[1]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


KERNEL_ONLY = """
<domain: "com.microsoft", opset_import: ["" : 20]>
CDist_vjp <metric> (a, b, y, dy) => (da, db) {
    two = Constant <value = float {2}> ()
    one = Constant <value_ints = [1]> ()
    zero = Constant <value_ints = [0]> ()
    of_a = ReduceSum <keepdims = 1> (dy, one)
    left = Mul (a, of_a)
    right = MatMul (dy, b)
    half_a = Sub (left, right)
    da = Mul (two, half_a)
    turned = Transpose <perm = [1, 0]> (dy)
    of_b = ReduceSum <keepdims = 1> (turned, one)
    left_b = Mul (b, of_b)
    right_b = MatMul (turned, a)
    half_b = Sub (left_b, right_b)
    db = Mul (two, half_b)
}
"""


def test_an_operator_that_only_the_runtime_has() -> None:
    """Squared distances of all pairs, which ONNX Runtime computes by a kernel of its own."""
    text = f"""<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>
    g (float[3, 4] a, float[5, 4] b) => (float[3, 5] y) <float[3, 5] d> {{
        d = com.microsoft.CDist <metric = "sqeuclidean"> (a, b) y = Tanh (d)
    }}
    {KERNEL_ONLY}"""
    own = parse_with_vjp(text)
    a, b, seed = random(3, 4, seed=1) / 4, random(5, 4, seed=2) / 4, random(3, 5, seed=3)
    program = onnxgrad.compile(own, wrt="inputs")
    found = program.session().grad({"a": a, "b": b}, {"y": seed})
    ta, tb = (torch.tensor(each, requires_grad=True) for each in (a, b))
    y = torch.tanh(((ta[:, None] - tb[None]) ** 2).sum(-1))
    for name, expected in zip(("a", "b"), torch.autograd.grad(y, [ta, tb], torch.tensor(seed)), strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert [node.op_type for node in program.model.graph].count("CDist") == 1


def test_a_rule_in_python_for_any_domain() -> None:
    rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)

    @rules.vjp("SiLU", domain="my.ops")
    def silu(n, dy):  # type: ignore[no-untyped-def]
        (x,) = n.inputs
        gate = n.op.Sigmoid(x)
        return lambda: dy * (gate + n.outputs[0] * (1 - gate)) * 3.0

    functions = SILU.replace("FACTOR", "2")
    found = onnxgrad.compile(model(functions), wrt=["x"], rules=rules).session().grad({"x": X}, {"y": SEED})
    np.testing.assert_allclose(found["x"], torch_gradients(3.0)["x"], rtol=1e-5, atol=1e-6)


def test_a_built_in_rule_is_overridden_for_one_compilation() -> None:
    rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)

    @rules.vjp("Sigmoid")
    def straight(n, dy):  # type: ignore[no-untyped-def]
        """The cotangent passes as it is."""
        return lambda: dy

    sigmoid = parse("g (float[3, 4] x) => (float[3, 4] y) { y = Sigmoid (x) }")
    overridden = onnxgrad.compile(sigmoid, wrt="inputs", rules=rules).session().grad({"x": X}, {"y": SEED})
    plain = onnxgrad.compile(sigmoid, wrt="inputs").session().grad({"x": X}, {"y": SEED})
    np.testing.assert_array_equal(overridden["x"], SEED)
    value = 1 / (1 + np.exp(-X))
    np.testing.assert_allclose(plain["x"], SEED * value * (1 - value), rtol=1e-5)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("(x, dy) => (dx)", r"The function SiLU.vjp has 2 inputs and 1 outputs; for SiLU node .* it needs 3 .* and 1"),
        ("(x, y, dy) => (dx, kept)", r"has 3 inputs and 2 outputs; .* it needs 3 .* and 1"),
    ],
)
def test_a_pair_that_does_not_fit(signature: str, message: str) -> None:
    functions = SILU.replace("FACTOR", "1").replace("(x, y, dy) => (dx)", signature)
    functions = functions.replace("bent = Mul (y, kept)", "bent = Mul (dy, kept)")
    with pytest.raises(onnxgrad.InvalidModelError, match=message):
        onnxgrad.compile(model(functions))


@pytest.mark.parametrize("rows", ["N", "4"])
@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("ReduceSum <keepdims = 0> (dy)", r"for input 0, FLOAT\[\w,3\], a cotangent of shape \[\]"),
        ("Concat <axis = 1> (dy, dy)", r"a cotangent of shape \[\w,6\]; it has the shape of the input"),
        ("Cast <to = 7> (dy)", "a cotangent of INT64; it is a float tensor"),
    ],
)
def test_a_pair_of_the_wrong_shape_or_dtype(result: str, message: str, rows: str) -> None:
    broken = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 20, "my.ops" : 1]>
        g (float[{rows}, 3] x) => (float[{rows}, 3] y) {{ y = my.ops.F (x) }}
        <domain: "my.ops", opset_import: ["" : 20]> F (x) => (y) {{ y = Tanh (x) }}
        <domain: "my.ops", opset_import: ["" : 20]> F_vjp (x, y, dy) => (dx) {{ dx = {result} }}""")
    broken.functions[1].name = "F.vjp"
    with pytest.raises(onnxgrad.Error, match=message):
        onnxgrad.compile(broken, wrt="inputs")


def test_a_rule_of_the_wrong_count_shape_or_dtype() -> None:
    sigmoid = parse("g (float[3, 4] x) => (float[3, 4] y) { y = Sigmoid (x) }")
    wrong = {
        "2 cotangents": lambda n, dy: (lambda: dy, lambda: dy),
        r"\[4, ?3\]": lambda n, dy: lambda: dy.transpose([1, 0]),
        "it is a float tensor": lambda n, dy: lambda: n.op.Cast(dy, to=onnx.TensorProto.INT64),
        "for input 0 a int; a cotangent is what operators on tensors give": lambda n, dy: lambda: 3,
        "gave a Tensor; a rule returns for each input a function": lambda n, dy: dy,
    }
    for message, function in wrong.items():
        rules = onnxgrad.Registry(onnxgrad.BUILTIN_RULES)
        rules.vjp("Sigmoid")(function)
        with pytest.raises(onnxgrad.Error, match=message):
            onnxgrad.compile(sigmoid, wrt="inputs", rules=rules)
