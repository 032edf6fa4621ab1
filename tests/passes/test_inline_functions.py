"""InlineFunctions: calls become bodies, with names, metadata and values kept."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import InvalidModelError, UnsupportedError
from onnxgrad.passes.inline_functions import InlineFunctions

from .running import check_pass, operators, run

X = np.arange(1, 5, dtype=np.float32)


def model_of(graph: str, *functions: str) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["" : 26, "f" : 1]>'
    return ir.from_onnx_text("\n".join([header, graph, *functions]))


SCALE = """<domain: "f", opset_import: ["" : 26]> scale <k> (x) => (y) {
    c = Constant <value_float: float = @k> ()  y = Mul (x, c)
}"""
TWICE = """<domain: "f", opset_import: ["" : 26, "f" : 1]> twice (x) => (y) {
    h = f.scale <k = 2.0> (x)  y = f.scale <k = 3.0> (h)
}"""


def test_nested_calls_are_inlined_with_attributes_names_and_metadata() -> None:
    model = model_of(
        "g (float[4] x) => (float[4] z) { y = f.twice (x)  h = Neg (y)  z = f.scale <k = 0.5> (h) }", SCALE, TWICE
    )
    first, _, last = model.graph
    first.name, last.name = "block.0", "head"
    first.metadata_props["namespace"] = "Model/Block"
    assert check_pass(InlineFunctions(), model, {"x": X})
    assert operators(model) == ["Constant", "Mul", "Constant", "Mul", "Neg", "Constant", "Mul"]
    assert not model.functions
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    assert all(str(name).startswith("block.0/scale/") for name in names[:4])
    assert all(str(name).startswith("head/") for name in names[5:])
    assert all(node.metadata_props == {"namespace": "Model/Block"} for node in model.graph[:4])
    assert model.graph.outputs[0].name == "z"


def test_function_that_gives_its_input_keeps_the_name_of_the_graph_input() -> None:
    same = '<domain: "f", opset_import: ["" : 26]> same (a) => (a, b, b) { b = Neg (a) }'
    model = model_of("g (float[4] x) => (float[4] u, float[4] v, float[4] w) { u, v, w = f.same (x) }", same)
    expected = {"u": X, "v": -X, "w": -X}
    InlineFunctions().call(model)
    for name, array in run(model, {"x": X}).items():
        np.testing.assert_array_equal(array, expected[name])


def test_omitted_inputs_and_outputs() -> None:
    clip = """<domain: "f", opset_import: ["" : 26]> clip (x, low, high) => (h, y) {
        h = Neg (x)  y = Clip (h, low, high)
    }"""
    model = model_of(
        "g (float[4] x) => (float[4] y, float[4] h) <float low = {-2}> { , y = f.clip (x, low)  h = f.clip (x) }", clip
    )
    InlineFunctions().call(model)
    assert operators(model) == ["Neg", "Clip", "Neg", "Clip"]
    outputs = run(model, {"x": X})
    np.testing.assert_array_equal(outputs["y"], np.maximum(-X, -2))
    np.testing.assert_array_equal(outputs["h"], -X)


def test_names_do_not_clash_with_subgraphs() -> None:
    model = model_of(
        """g (bool c, float[4] x) => (float[4] z) {
            y = f.twice (x)
            z = If (c) <
                then_branch = t () => (float[4] a) { h = Neg (y)  a = f.scale <k = 4.0> (h) },
                else_branch = e () => (float[4] b) { b = f.twice (y) }
            >
        }""",
        SCALE,
        TWICE,
    )
    for condition in (True, False):
        again = ir.from_proto(ir.to_proto(model))
        assert check_pass(InlineFunctions(), again, {"x": X, "c": np.array(condition)})


def test_recursion_is_refused() -> None:
    a = '<domain: "f", opset_import: ["" : 26, "f" : 1]> a (x) => (y) { y = f.b (x) }'
    b = '<domain: "f", opset_import: ["" : 26, "f" : 1]> b (x) => (y) { y = f.a (x) }'
    model = model_of("g (float[4] x) => (float[4] y) { y = f.a (x) }", a, b)
    with pytest.raises(InvalidModelError, match=r"in a circle: (a → b → a|b → a → b)"):
        InlineFunctions().call(model)


def test_older_function_is_inlined_where_its_operators_did_not_change() -> None:
    old = '<domain: "f", opset_import: ["" : 17]> old (x) => (y) { h = Neg (x)  y = Mul (h, x) }'
    model = model_of("g (float[4] x) => (float[4] y) { y = f.old (x) }", old)
    assert InlineFunctions().call(model).modified
    np.testing.assert_array_equal(run(model, {"x": X})["y"], -X * X)


def test_older_function_is_refused_where_an_operator_changed() -> None:
    old = '<domain: "f", opset_import: ["" : 17]> old (x) => (y) { y = ReduceMean <axes = [0]> (x) }'
    model = model_of("g (float[4] x) => (float[1] y) { y = f.old (x) }", old)
    with pytest.raises(UnsupportedError, match="ReduceMean changed"):
        InlineFunctions().call(model)


def test_model_without_functions_is_left_alone() -> None:
    model = model_of("g (float[4] x) => (float[4] y) { y = Exp (x) }")
    assert not check_pass(InlineFunctions(), model, {"x": X})
