"""LiftConstants: constants and generated weights become initializers, shared weights one value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import InvalidModelError
from onnxgrad.passes.lift_constants import LARGEST_GENERATED_WEIGHT, LiftConstants

from .running import check_pass, operators, parse

X = np.array([[1.0, -2.0, 3.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1.0, 2.0}", np.array([1, 2], np.float32)),
        ("value_float = 2.5", np.array(2.5, np.float32)),
        ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], np.float32)),
        ("value_int = 7", np.array(7, np.int64)),
        ("value_ints = [7, 8]", np.array([7, 8], np.int64)),
    ],
)
def test_every_form_of_constant_becomes_an_initializer(attribute: str, expected: np.ndarray) -> None:
    dtype = "float" if expected.dtype == np.float32 else "int64"
    shape = f"[{expected.size}]" if expected.ndim else "[1]"
    model = parse(f"g ({dtype}{shape} x) => ({dtype}{shape} y) {{ c = Constant <{attribute}> ()  y = Add (x, c) }}")
    assert check_pass(LiftConstants(), model, {"x": np.ones(expected.size, expected.dtype)})
    assert operators(model) == ["Add"]
    initializer = model.graph.initializers["c"]
    assert initializer.const_value is not None
    np.testing.assert_array_equal(initializer.const_value.numpy(), expected)


def test_string_constants_are_lifted() -> None:
    model = parse('g (string[1] x) => (bool[1] y) { c = Constant <value_strings = ["a"]> ()  y = Equal (x, c) }')
    assert LiftConstants().call(model).modified
    assert operators(model) == ["Equal"]
    tensor = model.graph.initializers["c"].const_value
    assert tensor is not None
    assert tensor.numpy().tolist() == [b"a"]


def test_constant_that_is_an_output_stays() -> None:
    model = parse("g (float[1,3] x) => (float[1,3] y, float c) { c = Constant <value_float = 2.0> () y = Mul (x, c) }")
    assert not check_pass(LiftConstants(), model, {"x": X})
    assert operators(model) == ["Constant", "Mul"]


def test_constants_of_subgraphs_move_to_the_main_graph_under_names_of_their_own() -> None:
    model = parse(
        """g (bool c, float[1,3] x) => (float[1,3] y) {
            y = If (c) <
                then_branch = t () => (float[1,3] a) { k = Constant <value_float = 2.0> ()  a = Mul (x, k) },
                else_branch = e () => (float[1,3] b) { k = Constant <value_float = 3.0> ()  b = Mul (x, k) }
            >
        }""",
        infer=False,
    )
    for condition in (True, False):
        again = ir.from_proto(ir.to_proto(model))
        assert check_pass(LiftConstants(), again, {"x": X, "c": np.array(condition)})
        assert sorted(again.graph.initializers) == ["k", "k_1"]
        assert [node.op_type for node in again.graph.all_nodes()] == ["If", "Mul", "Mul"]


def test_hoisted_constant_does_not_shadow_a_value_of_a_sibling_branch() -> None:
    model = parse(
        """g (bool c, float[1,3] x) => (float[1,3] y) {
            y = If (c) <
                then_branch = t () => (float[1,3] a) { k = Constant <value_float = 2.0> ()  a = Mul (x, k) },
                else_branch = e () => (float[1,3] b) { k = Abs (x)  b = Mul (x, k) }
            >
        }""",
        infer=False,
    )
    assert check_pass(LiftConstants(), model, {"x": X, "c": np.array(False)})
    assert list(model.graph.initializers) == ["k_1"]


def test_constant_without_a_value_is_refused() -> None:
    model = parse("g (float[1,3] x) => (float[1,3] y) { c = Constant <value_float = 2.0> () y = Mul (x, c) }")
    model.graph[0].attributes.clear()
    with pytest.raises(InvalidModelError, match="Constant node"):
        LiftConstants().call(model)


def test_tied_weights_become_one_value() -> None:
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    model = parse(
        """g (float[1,3] x) => (float[1,3] y) {
            v = Identity (w)  u = Identity (v)  h = MatMul (x, w)  y = MatMul (h, u)
        }""",
        initializers={"w": w},
    )
    assert check_pass(LiftConstants(), model, {"x": X})
    assert operators(model) == ["MatMul", "MatMul"]
    assert model.graph[0].inputs[1] is model.graph[1].inputs[1] is model.graph.initializers["w"]


def test_generated_weight_becomes_a_lazy_initializer() -> None:
    model = parse(
        """g (float[1,3] x) => (float[1,4] y) <int64[2] s = {3, 4}, int64[1] t = {4}> {
            w = ConstantOfShape <value = float[1] {0.25}> (s)
            b = ConstantOfShape <value = float[1] {0.5}> (t)
            y = Gemm (x, w, b)
        }"""
    )
    assert check_pass(LiftConstants(), model, {"x": X})
    assert operators(model) == ["Gemm"]
    w = model.graph.initializers["w"].const_value
    assert isinstance(w, ir.LazyTensor)
    np.testing.assert_array_equal(w.numpy(), np.full((3, 4), 0.25, np.float32))


def test_fill_that_is_not_read_as_a_weight_stays_a_node() -> None:
    model = parse(
        """g (float[3,4] x) => (float[3,4] y) <int64[2] s = {3, 4}> {
            m = ConstantOfShape <value = float[1] {-1.0}> (s)  y = Add (x, m)
        }"""
    )
    assert not LiftConstants().call(model).modified


def test_a_declared_size_does_not_make_an_array() -> None:
    model = parse(
        f"""g (float[1,3] x) => (float[1,n] y) <int64[2] s = {{3, {LARGEST_GENERATED_WEIGHT}}}> {{
            w = ConstantOfShape <value = float[1] {{0.02}}> (s)  y = MatMul (x, w)
        }}""",
        infer=False,
    )
    assert not LiftConstants().call(model).modified


def test_external_data_stays_on_disk(tmp_path: Path) -> None:
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    model = parse("g (float[1,3] x) => (float[1,3] y) { v = Identity (w)  y = MatMul (x, v) }", initializers={"w": w})
    path = tmp_path / "model.onnx"
    ir.save(model, path, external_data="model.data", size_threshold_bytes=0)
    loaded = ir.load(path)
    LiftConstants().call(loaded)
    tensor = loaded.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None  # not mapped yet: nothing has read it


def test_generated_weights_of_a_light_model() -> None:
    """ONNX's own test models of opset 9 generate each weight by a ConstantOfShape."""
    path = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"
    model = ir.load(path)
    model.graph.inputs[:] = [value for value in model.graph.inputs if not value.is_initializer()]
    model.ir_version = 10
    name = model.graph.inputs[0].name
    assert name is not None
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    check_pass(LiftConstants(), model, {name: image}, rtol=1e-5)  # the runtime packs constant weights
    assert "ConstantOfShape" not in operators(model)
