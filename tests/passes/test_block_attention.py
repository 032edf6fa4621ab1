"""BlockAttention: the same values and gradients, one block of queries after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxgrad.passes.block_attention import BlockAttention
from onnxgrad.passes.differentiate import differentiate
from onnxgrad.passes.lift_constants import LiftConstants
from onnxgrad.passes.lower_opset import LowerOpset
from onnxgrad.passes.rules import BUILTIN_RULES

from .running import operators, parse, run

Arrays = Mapping[str, np.ndarray]


def blocked(model: ir.Model, sizes: Mapping[str, int] | None = None) -> bool:
    return BlockAttention(sizes, shortest=18, block_bytes=1).call(model).modified


def gradients(model: ir.Model, feeds: Arrays, *, blocks: bool, sizes: Mapping[str, int] | None = None) -> Arrays:
    """The output and the gradients of the float inputs, for a fixed seed."""
    graph = model.graph
    if blocks:
        assert blocked(model, sizes)
        assert "Softmax" not in operators(model)
        assert "Attention" not in operators(model)
    (y,) = graph.outputs
    seed = ir.Value(name="seed", type=y.type, shape=y.shape)
    wrt = [value for value in graph.inputs if value.dtype is not None and value.dtype.is_floating_point()]
    graph.inputs.append(seed)
    for value, gradient in differentiate(graph, {y: seed}, wrt, BUILTIN_RULES, optional=wrt).items():
        gradient.name = f"{value.name}.grad"
        graph.outputs.append(gradient)
    LowerOpset().call(model)
    (q, v) = (feeds[name] for name in "qv")
    dy = np.random.default_rng(9).standard_normal((*q.shape[:-1], v.shape[-1])).astype(q.dtype)
    return run(model, {**feeds, "seed": dy})


def sample(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def assert_close(actual: Arrays, expected: Arrays, tolerance: float = 1e-5) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape
        error = np.abs(actual[name].astype(np.float64) - array).max() / max(np.abs(array).max(), 1e-3)
        assert error < tolerance, name


SCALED = "half = Constant <value_float = 0.5> ()  "
FORMS = {
    "scores": SCALED + "t = Transpose <perm = [0,1,3,2]> (k)  a = MatMul (q, t)  s = Mul (a, half)  ",
    "query": SCALED + "t = Transpose <perm = [0,1,3,2]> (k)  b = Mul (half, q)  s = MatMul (b, t)  ",
    "keys": SCALED + "t = Transpose <perm = [0,1,3,2]> (k)  b = Mul (t, half)  s = MatMul (q, b)  ",
    "capped": "t = Transpose <perm = [0,1,3,2]> (k)  a = MatMul (q, t)  s = Tanh (a)  ",
}
MASKS = {
    "none": ("", ()),
    "added": ("m = Add (s, mask)  ", (0, 0)),
    "of heads": ("m = Add (mask, s)  ", (2, 3, 0, 0)),
    "of keys": ("m = Add (s, mask)  ", (2, 1, 1, 0)),
    "chosen": ("no = Constant <value_float = -inf> ()  c = Greater (mask, half)  m = Where (c, no, s)  ", (1, 1, 0, 0)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(queries=st.integers(18, 70), keys=st.integers(18, 40), symbolic=st.booleans())
def test_products(form: str, mask: str, queries: int, keys: int, symbolic: bool) -> None:
    step, shape = MASKS[mask]
    feeds = sample(queries, q=(2, 3, queries, 4), k=(2, 3, keys, 4), v=(2, 3, keys, 5))
    if shape:
        full = [*shape[:-2], *(own or size for own, size in zip(shape[-2:], (queries, keys), strict=True))]
        feeds |= sample(1, mask=tuple(full))
        feeds["mask"][..., 0] = 0
    if mask == "chosen":
        step = SCALED * (form == "capped") + step
    sizes = {"queries": queries, "keys": keys}

    def model() -> ir.Model:
        names = ("queries", "keys") if symbolic else (str(queries), str(keys))
        dims = {"q": f"b,3,{names[0]},4", "k": f"b,3,{names[1]},4", "v": f"b,3,{names[1]},5"}
        if shape:
            rows = names[0] if shape[-2] == 0 else "1"
            dims["mask"] = ",".join([*map(str, shape[:-2]), rows, names[1]])
        inputs = ", ".join(f"float[{dim}] {name}" for name, dim in dims.items())
        last = "m" if step else "s"
        text = f"{FORMS[form]}{step}p = Softmax <axis = -1> ({last})  y = MatMul (p, v)"
        model = parse(f"g ({inputs}) => (float[b,3,{names[0]},5] y) {{ {text} }}")
        LiftConstants().call(model)
        return model

    actual = gradients(model(), feeds, blocks=True, sizes=sizes)
    assert_close(actual, gradients(model(), feeds, blocks=False))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize(("causal", "key_heads"), [(0, 2), (1, 4)])
def test_the_operator_against_pytorch(dtype: type, mask: str | None, causal: int, key_heads: int) -> None:
    queries = 37
    keys = queries if causal else 20
    of = {np.float32: "float", np.float16: "float16"}[dtype]
    feeds = sample(0, q=(2, 4, queries, 8), k=(2, key_heads, keys, 8), v=(2, key_heads, keys, 8))
    feeds = {name: array.astype(dtype) for name, array in feeds.items()}
    allowed = np.random.default_rng(3).uniform(size=(queries, keys)) < 0.7
    allowed[:, 0] = True
    inputs = f"{of}[b,4,{queries},8] q, {of}[b,{key_heads},{keys},8] k, {of}[b,{key_heads},{keys},8] v"
    if mask is not None:
        inputs += f", {'bool' if mask == 'bool' else of}[{queries},{keys}] mask"
        feeds["mask"] = allowed if mask == "bool" else (allowed * 1.0).astype(dtype)
    node = f"y = Attention <is_causal = {causal}> (q, k, v{', mask' * (mask is not None)})"
    model = parse(f"g ({inputs}) => ({of}[b,4,{queries},8] y) {{ {node} }}")
    actual = gradients(model, feeds, blocks=True)

    primals = {n: torch.tensor(a.astype(np.float64), requires_grad=n != "mask") for n, a in feeds.items()}
    shown = torch.tensor(np.tril(np.ones((queries, keys), bool)) if causal else np.ones((queries, keys), bool))
    bias = torch.where(shown, 0.0, -torch.inf).double()
    if mask == "bool":
        bias = torch.where(torch.tensor(allowed), bias, -torch.inf)
    elif mask == "float":
        primals["mask"].requires_grad_()
        bias = bias + primals["mask"]
    y = F.scaled_dot_product_attention(*(primals[n] for n in "qkv"), attn_mask=bias, enable_gqa=True)
    dy = np.random.default_rng(9).standard_normal(y.shape).astype(dtype).astype(np.float64)
    wrt = [n for n, p in primals.items() if p.requires_grad]
    found = torch.autograd.grad(y, [primals[n] for n in wrt], torch.tensor(dy))
    expected = {"y": y.detach().numpy(), **{f"{n}.grad": g.numpy() for n, g in zip(wrt, found, strict=True)}}
    assert_close(actual, expected, 1e-5 if dtype == np.float32 else 5e-3)


PLAIN = "t = Transpose <perm = [0,2,1]> (k)  s = MatMul (q, t)  p = Softmax <axis = -1> (s)  y = MatMul (p, v)"


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (PLAIN, "float[2,n,3] y"),
        (PLAIN + "  also = Relu (s)", "float[2,20,3] y, float[2,20,24] also"),
        (PLAIN, "float[2,20,3] y, float[2,20,24] p"),
        (PLAIN.replace("axis = -1", "axis = 1"), "float[2,20,3] y"),
        (PLAIN.replace("Softmax <axis = -1>", "Relu"), "float[2,20,3] y"),
    ],
    ids=["unknown length", "scores read", "probabilities given", "other axis", "no softmax"],
)
def test_what_stays(body: str, results: str) -> None:
    queries = "n" if "n," in results else "20"
    model = parse(f"g (float[2,{queries},3] q, float[2,24,3] k, float[2,24,3] v) => ({results}) {{ {body} }}")
    assert not blocked(model)


def test_nothing_of_queries_times_keys_is_outside_of_the_blocks_or_kept() -> None:
    model = parse(f"g (float[2,64,3] q, float[2,40,3] k, float[2,40,3] v) => (float[2,64,3] y) {{ {PLAIN} }}")
    gradients(model, sample(0, q=(2, 64, 3), k=(2, 40, 3), v=(2, 40, 3)), blocks=True)
    largest = max(np.prod(value.shape.numpy()) for node in model.graph for value in node.outputs if value.shape)
    assert largest < 64 * 40


def test_the_gradient_of_the_gradient() -> None:
    def twice(*, blocks: bool) -> Arrays:
        model = parse(f"g (float[1,20,3] q, float[1,20,3] k, float[1,20,3] v) => (float[1,20,3] y) {{ {PLAIN} }}")
        if blocks:
            assert blocked(model)
        graph = model.graph
        q, k, v = graph.inputs
        first = differentiate(graph, {graph.outputs[0]: v}, [q], BUILTIN_RULES)[q]
        second = differentiate(graph, {first: k}, [k, v], BUILTIN_RULES)
        for value, gradient in second.items():
            gradient.name = f"{value.name}.grad"
            graph.outputs.append(gradient)
        LowerOpset().call(model)
        return run(model, sample(0, q=(1, 20, 3), k=(1, 20, 3), v=(1, 20, 3)))

    assert_close(twice(blocks=True), twice(blocks=False))
