"""If, Loop and Scan against PyTorch's autograd on the same computation written as Python control flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

import onnxgrad

Arrays = dict[str, np.ndarray]
Reference = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


W, B = random(3, 3) * 0.5, random(3, seed=1)


def parse(graph: str, weights: Arrays) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def check(graph: str, weights: Arrays, feeds: Arrays, reference: Reference) -> onnxgrad.Program:
    """Holds values, gradients of all floats, and the gradients of these along a random direction, against PyTorch."""
    wrt = [*weights, *(name for name, array in feeds.items() if array.dtype == np.float32)]
    arrays = weights | feeds
    leaves = {n: torch.tensor(a, requires_grad=n in wrt, dtype=_float64(a)) for n, a in arrays.items()}
    expected = reference(leaves)
    seeds = {name: random(*value.shape, seed=5) for name, value in expected.items()}
    total = sum(((expected[name] * torch.tensor(seed)).sum() for name, seed in seeds.items()), torch.zeros(()))
    gradients = torch.autograd.grad(total, [leaves[n] for n in wrt], create_graph=True, materialize_grads=True)

    program = onnxgrad.compile(
        parse(graph, weights), wrt=wrt, outputs=list(expected), allow_unused=True, materialize_grads=True
    )
    values, found = program.session().value_and_grad(feeds, seeds)
    for name, value in expected.items():
        assert_close(values[name], value, name)
    for name, gradient in zip(wrt, gradients, strict=True):
        assert_close(found[name], gradient, name)

    directions = {name: random(*array.shape, seed=6) for name, array in arrays.items() if name in wrt}
    along = sum((g * torch.tensor(directions[n])).sum() for n, g in zip(wrt, gradients, strict=True))
    again = torch.autograd.grad(along + 0 * total, [leaves[n] for n in wrt], materialize_grads=True)
    twice = onnxgrad.compile(
        program.model, wrt=wrt, outputs=[f"{n}.grad" for n in wrt], allow_unused=True, materialize_grads=True
    )
    second = twice.session().grad(
        feeds | {f"{name}.grad_output": seed for name, seed in seeds.items()},
        {f"{name}.grad": direction for name, direction in directions.items()},
    )
    for name, gradient in zip(wrt, again, strict=True):
        assert_close(second[name], gradient, name)
    return program


def _float64(array: np.ndarray) -> torch.dtype | None:
    return torch.float64 if array.dtype == np.float32 else None


def assert_close(actual: np.ndarray, expected: Tensor, name: str) -> None:
    array = expected.detach().numpy()
    assert actual.shape == array.shape
    np.testing.assert_allclose(actual, array, rtol=1e-4, atol=1e-5 * max(1.0, abs(array).max(initial=0)), err_msg=name)


SCAN = """g (float[{x}] x, float[2,3] h) => (float[2,3] last, float[a,b,c] y) {{
    last, y = Scan <num_scan_inputs = 1, {layout}, body = step (float[2,3] hi, float[2,3] xi)
            => (float[2,3] ho, float[2,3] yo) {{
        m = MatMul (hi, w)
        a = Add (m, xi)
        ho = Tanh (a)
        s = Mul (ho, xi)
        yo = Add (s, b)
    }}> (h, x)
}}"""


@pytest.mark.parametrize("reverse_in", [0, 1])
@pytest.mark.parametrize("reverse_out", [0, 1])
@pytest.mark.parametrize(("axis_in", "axis_out"), [(0, 0), (1, -1)])
def test_scan(reverse_in: int, reverse_out: int, axis_in: int, axis_out: int) -> None:
    layout = (
        f"scan_input_axes = [{axis_in}], scan_output_axes = [{axis_out}], "
        f"scan_input_directions = [{reverse_in}], scan_output_directions = [{reverse_out}]"
    )

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h, ys = v["h"], []
        slices = v["x"].unbind(axis_in)
        for x in reversed(slices) if reverse_in else slices:
            h = torch.tanh(h @ v["w"] + x)
            ys.append(h * x + v["b"])
        return {"last": h, "y": torch.stack(ys[::-1] if reverse_out else ys, axis_out)}

    shape, sizes = ("2,t,3", (2, 4, 3)) if axis_in else ("t,2,3", (4, 2, 3))
    feeds = {"x": random(*sizes), "h": random(2, 3)}
    check(SCAN.format(x=shape, layout=layout), {"w": W, "b": B}, feeds, reference)


def test_scan_without_states_and_with_an_unused_output() -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"y": torch.stack([torch.exp(x) * v["b"] for x in v["x"]])}

    graph = """g (float[t,3] x) => (float[t,3] y, float[t,3] z) {
        y, z = Scan <num_scan_inputs = 1, body = step (float[3] xi) => (float[3] yo, float[3] zo) {
            e = Exp (xi)
            yo = Mul (e, b)
            zo = Sin (xi)
        }> (x)
    }"""
    check(graph, {"b": B}, {"x": random(4, 3)}, reference)


LOOP = """g (int64 n, float limit, float[A,3] h) => (float[A,3] last, float[T,A,3] y) <bool yes = {1}> {
    last, y = Loop (n, yes, h) <body = step (int64 i, bool c, float[A,3] hi)
            => (bool co, float[A,3] ho, float[A,3] yo) {
        m = MatMul (hi, w)
        t = Tanh (m)
        ho = Add (t, b)
        q = Mul (ho, hi)
        f = Cast <to = 1> (i)
        yo = Mul (q, f)
        s = ReduceSum <keepdims = 0> (ho)
        co = Less (s, limit)
    }>
}"""


def loop(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
    h, ys = v["h"], []
    for i in range(int(v["n"])):
        before = h
        h = torch.tanh(h @ v["w"]) + v["b"]
        ys.append(h * before * i)
        if not h.sum() < v["limit"]:
            break
    return {"last": h, "y": torch.stack(ys) if ys else h.new_zeros(0, *h.shape)}


@pytest.mark.parametrize(("trips", "limit"), [(4, 1e9), (1, 1e9), (10, -0.5), (3, -1e9)])
def test_loop(trips: int, limit: float) -> None:
    feeds = {"n": np.array(trips), "limit": np.array(limit, np.float32), "h": random(2, 3)}
    check(LOOP, {"w": W, "b": B}, feeds, loop)


def test_a_loop_of_no_iterations_hands_the_cotangents_through() -> None:
    graph = LOOP.replace("(float[A,3] last, float[T,A,3] y)", "(float[A,3] last)")
    feeds = {"n": np.array(0), "limit": np.array(0, np.float32), "h": random(2, 3)}
    check(graph, {"w": W, "b": B}, feeds, lambda v: {"last": loop(v)["last"] + 0 * v["w"].sum()})


def test_a_loop_that_is_bounded_by_nothing_but_its_condition() -> None:
    graph = """g (float[3] x) => (float[3] y) <bool yes = {1}> {
        y = Loop (, yes, x) <body = step (int64 i, bool c, float[3] xi) => (bool co, float[3] xo) {
            xo = Mul (xi, b)
            s = ReduceL2 <keepdims = 0> (xo)
            limit = Constant <value = float {0.1}> ()
            co = Greater (s, limit)
        }>
    }"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = v["x"] * v["b"]
        while x.norm() > 0.1:
            x = x * v["b"]
        return {"y": x}

    check(graph, {"b": np.array([0.5, 0.7, -0.3], np.float32)}, {"x": random(3)}, reference)


def test_a_count_that_a_loop_carries_along_has_no_gradient() -> None:
    graph = """g (float[3] x) => (float[3] y, int64 count) <bool yes = {1}, int64 n = {3}, int64 none = {0}> {
        y, count = Loop (n, yes, x, none) <body = step (int64 i, bool c, float[3] xi, int64 k)
                => (bool co, float[3] xo, int64 ko) {
            co = Identity (c)
            f = Cast <to = 1> (k)
            e = Sin (xi)
            xo = Add (e, f)
            one = Constant <value = int64 {1}> ()
            ko = Add (k, one)
        }>
    }"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = v["x"]
        for k in range(3):
            x = torch.sin(x) + k
        return {"y": x}

    check(graph, {}, {"x": random(3)}, reference)


IF = """g (bool c, float[N,3] x, float[N,3] k) => (float[N,3] y) {
    z = Exp (x)
    y = If (c) <
        then_branch = yes () => (float[N,3] p) { m = MatMul (z, w) t = Tanh (m) p = Mul (t, k) },
        else_branch = no () => (float[N,3] q) { s = Sigmoid (z) q = Mul (s, b) }
    >
}"""


@pytest.mark.parametrize("taken", [True, False])
def test_if(taken: bool) -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        z = v["x"].exp()
        return {"y": torch.tanh(z @ v["w"]) * v["k"] if v["c"] else torch.sigmoid(z) * v["b"]}

    feeds = {"c": np.array(taken), "x": random(2, 3), "k": random(2, 3, seed=3)}
    check(IF, {"w": W, "b": B}, feeds, reference)


@pytest.mark.parametrize("sizes", ["2,3", "N,3"], ids=["known sizes", "unknown sizes"])
def test_control_flow_in_control_flow(sizes: str) -> None:
    """In a loop, a branch of known sizes gives what its backward branch reads; one of unknown sizes is run again."""
    graph = f"""g (int64 n, float[{sizes}] h, float[t,{sizes}] x) => (float[{sizes}] last)
    <bool yes = {{1}}, int64 two = {{2}}> {{
        last = Loop (n, yes, h) <body = step (int64 i, bool c, float[{sizes}] hi) => (bool co, float[{sizes}] ho) {{
            co = Identity (c)
            m = MatMul (hi, w)
            parity = Mod (i, two)
            zero = Constant <value = int64 {{0}}> ()
            odd = Greater (parity, zero)
            a = If (odd) <
                then_branch = yes () => (float[{sizes}] p) {{ e = Exp (m) p = Tanh (e) }},
                else_branch = no () => (float[{sizes}] q) {{
                    s = Scan <num_scan_inputs = 1, body = inner (float[{sizes}] si, float[{sizes}] xi)
                            => (float[{sizes}] so) {{
                        u = Mul (si, xi)
                        v = Sin (u)
                        so = Mul (v, hi)
                    }}> (m, x)
                    q = Identity (s)
                }}
            >
            ho = Add (a, b)
        }}>
    }}"""

    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = v["h"]
        for i in range(int(v["n"])):
            a = h @ v["w"]
            if i % 2:
                a = torch.tanh(a.exp())
            else:
                for x in v["x"]:
                    a = torch.sin(a * x) * h
            h = a + v["b"]
        return {"last": h}

    feeds = {"n": np.array(4), "h": random(2, 3), "x": random(3, 2, 3)}
    check(graph, {"w": W, "b": B}, feeds, reference)


def test_weights_inside_a_loop_are_found_and_their_gradients_accumulate() -> None:
    text = LOOP.replace("(hi, w)", '(hi, "decoder.w")').replace("(t, b)", '(t, "decoder.b")')
    program = onnxgrad.compile(parse(text, {"decoder.w": W, "decoder.b": B}), outputs="last", mode="accumulate")
    assert set(program.parameters) == {"decoder.w", "decoder.b"}
    session = program.session()
    feeds = {"n": np.array(3), "limit": np.array(1e9, np.float32), "h": random(2, 3)}
    seed = {"last": random(2, 3, seed=5)}
    once = session.grad(feeds, seed)
    session.backward(feeds, seed)
    session.backward(feeds, seed)
    for name, gradient in once.items():
        np.testing.assert_allclose(session.grads[name], 2 * gradient, rtol=1e-5, atol=1e-6)


def test_all_blockers_are_named_those_in_bodies_too_and_none_off_the_path() -> None:
    graph = """g (float[3] x, int64 n) => (float[3] y) <bool yes = {1}> {
        first = custom.One (x)
        y = Loop (n, yes, first) <body = step (int64 i, bool c, float[3] xi) => (bool co, float[3] xo) {
            co = Identity (c)
            off = custom.Off (i)
            [inner] xo = custom.Two (xi, off)
        }>
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18, "custom" : 1]> {graph}')
    with pytest.raises(onnxgrad.UnsupportedError) as error:
        onnxgrad.compile(model, wrt="x")
    message = str(error.value)
    assert "2 nodes" in message
    assert "custom.One" in message
    assert "custom.Two node 'inner'" in message


GROWING = """g (int64 n, float[2,3] h) => (float[k,3] y) <bool yes = {{1}}, int64[1] zero = {{0}}> {{
    {outputs} = Loop (n, yes, h) <body = step (int64 i, bool c, float[r,3] hi) => (bool co, float[q,3] ho{more}) {{
        co = Identity (c)
        s = ReduceSum (hi, zero)
        t = Mul (s, b)
        u = Sin (t)
        e = Exp (hi)
        d = Tanh (e)
        ho = Concat <axis = 0> (d, u)
        scanned = Neg (u)
    }}>
}}"""


@pytest.mark.parametrize("trips", [0, 3])
def test_a_state_that_grows(trips: int) -> None:
    def reference(v: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = v["h"]
        for _ in range(int(v["n"])):
            h = torch.cat([torch.tanh(h.exp()), torch.sin(h.sum(0, keepdim=True) * v["b"])])
        return {"y": h + 0 * v["b"].sum()}

    feeds = {"n": np.array(trips), "h": random(2, 3) * np.float32(0.3)}
    check(GROWING.format(outputs="y", more=""), {"b": random(1, 3)}, feeds, reference)


def test_a_state_that_grows_beside_scan_outputs_is_refused_by_name() -> None:
    graph = GROWING.format(outputs="y, z", more=", float[1,3] scanned")
    graph = graph.replace("=> (float[k,3] y)", "=> (float[k,3] y, float[m,1,3] z)")
    with pytest.raises(onnxgrad.UnsupportedError, match="change their sizes from iteration to iteration"):
        onnxgrad.compile(parse(graph, {"b": random(1, 3)}), wrt="h")
