"""may_alias: which graph input and output may share one memory; what is proven is also run so in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxgrad.passes.aliasing import may_alias

from .running import parse

GENERATOR = np.random.default_rng(7)

SAFE = {
    "accumulation": ("y = Add (x, a)", ""),
    "accumulation, second operand": ("y = Sum (a, x)", ""),
    "the other operand is broadcast": ("s = ReduceMax <keepdims = 1> (a)  y = Mul (x, s)", ""),
    "read twice by the writer": ("y = Mul (x, x)", ""),
    "unary": ("y = Tanh (x)", ""),
    "select": ("c = Greater (a, b)  y = Where (c, x, a)", ""),
    "read before": ("s = ReduceSum <keepdims = 1> (x)  k = Div (a, s)  y = Add (x, k)", ""),
    "a view of it is read before": ("t = Transpose (x)  u = Transpose (t)  k = Mul (u, a)  y = Sub (x, k)", ""),
    "not read by the writer, only before": ("z = Mul (x, a)  y = Add (z, b)", ", float[4,4] z"),
    "not read at all": ("y = Add (a, b)", ""),
    "computed in another type": ("d = Cast <to = 11> (x)  e = Mul (d, d)  y = Cast <to = 1> (e)", ""),
    "gemm's C": ("y = Gemm <transA = 1> (a, b, x)", ""),
    "scattered onto it": ('y = ScatterElements <axis = 0, reduction = "add"> (x, rows, a)', ""),
    "a new output that depends on it": ("z = Mul (x, a)  y = Add (x, z)", ", float[4,4] z"),
}

UNSAFE = {
    "another consumer may run later": ("y = Add (x, a)  z = Mul (x, a)", ", float[4,4] z"),
    "another consumer reads the new value, too": ("y = Add (x, a)  z = MatMul (x, y)", ", float[4,4] z"),
    "a view of it may be read later": (
        "v = Reshape (x, sizes)  w = Reshape (v, sizes)  k = Mul (a, w)  y = Add (x, k)  z = Mul (w, w)",
        ", float[4,4] z",
    ),
    "an identity of it may be read later": (
        "v = Identity (x)  k = Mul (a, v)  y = Add (x, k)  z = MatMul (v, a)",
        ", float[4,4] z",
    ),
    "a view of it is an output": ("v = Identity (x)  k = Mul (a, v)  y = Add (x, k)", ", float[4,4] v"),
    "read through a view": ("v = Identity (x)  y = Add (v, a)", ""),
    "not elementwise": ("y = MatMul (x, a)", ""),
    "transposed": ("y = Transpose (x)", ""),
    "unary by row": ("y = Softmax (x)", ""),
    "three operands are summed in the output": ("y = Sum (a, b, x)", ""),
    "gemm's A": ("y = Gemm (x, b, a)", ""),
    "gemm's A and C": ("y = Gemm (x, b, x)", ""),
    "its own rows scattered": ('y = ScatterElements <axis = 0, reduction = "add"> (x, rows, x)', ""),
    "gemm's C and, by a view, its A": ("v = Identity (x)  y = Gemm (v, b, x)", ""),
    "an operator of another domain": ("y = com.microsoft.Gelu (x)", ""),
    "broadcast after a reduction": ("s = ReduceMax <keepdims = 1> (x)  y = Mul (x, s)", ""),
    "read in a branch": (
        "y = Add (x, a)  m = ReduceMax <keepdims = 0> (a)  c = Greater (m, zero)  "
        "z = If (c) <then_branch = t () => (float[4,4] p) { p = Mul (x, x) }, "
        "else_branch = e () => (float[4,4] q) { q = Mul (a, a) }>",
        ", float[4,4] z",
    ),
}


def graph_of(body: str, outputs: str) -> ir.Model:
    return parse(
        f"g (float[4,4] x, float[4,4] a, float[4,4] b) => (float[4,4] y{outputs}) "
        "<int64[2] sizes = {4, 4}, float zero = {0},"
        f" int64[4,4] rows = {{0, 1, 2, 3, 3, 3, 3, 3, -1, 0, 0, 1, 2, 2, 2, 2}}> {{ {body} }}"
    )


@pytest.mark.parametrize("case", SAFE)
def test_proven(case: str) -> None:
    model = graph_of(*SAFE[case])
    assert may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])
    check_in_place(model, ["x"])


@pytest.mark.parametrize("case", UNSAFE)
def test_refused(case: str) -> None:
    model = graph_of(*UNSAFE[case])
    assert not may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


def test_an_input_that_is_an_output_is_refused() -> None:
    model = graph_of("y = Add (x, a)", "")
    model.graph.outputs.append(model.graph.inputs[0])
    assert not may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


def test_only_graph_inputs_and_outputs() -> None:
    model = graph_of("h = Neg (a)  y = Add (x, h)", "")
    x, a, _ = model.graph.inputs
    (y,) = model.graph.outputs
    h = model.graph[0].outputs[0]
    assert may_alias(model.graph, x, y)
    assert not may_alias(model.graph, h, y)
    assert not may_alias(model.graph, a, h)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ("float[4,1]", "float[4,4]"),
        ("float[4]", "float[4,4]"),
        ("float[?,4]", "float[?,4]"),
        ("float[N,4]", "float[M,4]"),
    ],
)
def test_broadcast_or_unknown_shapes_are_refused(x: str, y: str) -> None:
    model = parse(f"g ({x} x, float[4,4] a) => ({y} y) {{ y = Add (x, a) }}", infer=False)
    assert not may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


def test_symbolic_sizes_of_one_name_are_equal() -> None:
    model = parse("g (float[N,4] x, float[4] a) => (float[N,4] y) { y = Add (x, a) }")
    assert may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


def test_another_dtype_is_refused() -> None:
    model = parse("g (float[4] x, bool[4] c) => (float16[4] y) { y = Cast <to = 10> (x) }")
    assert not may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


@pytest.mark.parametrize(
    ("attributes", "body", "safe"),
    [
        ("", "p_ = Add (p, q)  r = Neg (q)", True),
        ("", "p_ = Add (p, q)  r = Neg (p)", False),
        ("scan_input_axes = [1, 1], scan_output_axes = [1, 0],", "p_ = Add (p, q)  r = Neg (q)", True),
        ("scan_input_axes = [1, 0], scan_output_axes = [0, 0],", "p_ = Add (p, q)  r = Neg (q)", False),
        ("scan_input_directions = [1, 0],", "p_ = Add (p, q)  r = Neg (q)", False),
        ("", "p_ = Add (p, q)  u = Slice (x, i0, i1)  r = Squeeze (u, i0)", False),
        ("", "h = Mul (p, q)  p_ = Add (p, h)  r = Neg (h)", False),
        ("", "r = Mul (p, q)  p_ = Add (p, r)", True),
    ],
)
def test_scan_by_slices(attributes: str, body: str, safe: bool) -> None:
    model = parse(
        "g (float[4,4] x, float[4,4] a) => (float[4,4] y, float[4,4] z) <int64[1] i0 = {0}, int64[1] i1 = {1}> {"
        f"y, z = Scan <num_scan_inputs = 2, {attributes} "
        f"body = b (float[4] p, float[4] q) => (float[4] p_, float[4] r) {{ {body} }}> (x, a) }}"
    )
    assert may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0]) == safe
    if safe:
        check_in_place(model, ["x"])


def test_a_state_of_a_scan_is_refused() -> None:
    model = parse(
        "g (float[4] x, float[3,4] a) => (float[4] y, float[3,4] z) {"
        "y, z = Scan <num_scan_inputs = 1, body = b (float[4] p, float[4] q) => (float[4] p_, float[4] r) "
        "{ p_ = Add (p, q)  r = Neg (q) }> (x, a) }"
    )
    assert not may_alias(model.graph, model.graph.inputs[0], model.graph.outputs[0])


def check_in_place(model: ir.Model, shared: list[str]) -> None:
    """Bind the inputs called *shared* and the first outputs to one memory each; the results must not change."""
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {value.name: GENERATOR.uniform(0.5, 1.5, value.shape).astype(np.float32) for value in session.get_inputs()}
    expected = session.run(None, feeds)
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    names = [output.name for output in session.get_outputs()]
    for name, output in zip(shared, names, strict=False):
        binding.bind_output(output, "cpu", 0, np.float32, feeds[name].shape, feeds[name].ctypes.data)
    for output in names[len(shared) :]:
        binding.bind_output(output, "cpu")
    session.run_with_iobinding(binding)
    actual = binding.copy_outputs_to_cpu()
    for result, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(feeds[shared[0]], expected[0])
