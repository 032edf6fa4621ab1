"""The lowest opset that can express a graph, and refusal of one that cannot."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxgrad.passes.errors import InputError, InvalidModelError, UnsupportedError
from onnxgrad.passes.infer_shapes import InferShapes
from onnxgrad.passes.lower_opset import LowerOpset


def canonical(body: str, inputs: str = "float[2, 3, 4] x", output: str = "float[2, 3, 4] y") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 26]> g ({inputs}) => ({output}) {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    InferShapes()(model)
    return model


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("y = Relu (x)", 18),
        ("y = Gelu (x)", 20),
        ('y = Resize <mode = "nearest", keep_aspect_ratio_policy = "stretch"> (x)', 18),
        ("y = Cast <to = 1, saturate = 1> (x)", 18),
        ("y = Cast <to = 1, saturate = 0> (x)", 19),
        ("s = Constant <value_floats = [1.0, 1.0, 1.0]> () y = GroupNormalization <num_groups = 3> (x, s, s)", 21),
        ("s = Constant <value_floats = [1.0, 1.0, 1.0, 1.0]> () y = RMSNormalization (x, s)", 23),
        ("y = Identity (x)", 18),
        ('p = Constant <value_ints = [0, 0, 0, 0, 0, 0]> () y = Pad <mode = "wrap"> (x, p)', 19),
        ('p = Constant <value_ints = [0, 0, 0, 0, 0, 0]> () y = Pad <mode = "edge"> (x, p)', 18),
        (
            's = Constant <value_floats = [1.0, 1.0, 1.0]> () y = Resize <mode = "linear", '
            'coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s)',
            19,
        ),
    ],
)
def test_the_lowest_opset_is_found(body: str, opset: int) -> None:
    model = canonical(body)
    LowerOpset()(model)
    assert model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model))


def test_a_type_that_came_later_raises_the_opset() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 26]> g (bfloat16[2] x) => (bfloat16[2] y) { y = Sin (x) }'
        )
    )
    LowerOpset()(model)
    assert model.opset_imports[""] == 22


def test_a_requested_opset_is_kept() -> None:
    model = canonical("y = Relu (x)")
    LowerOpset(21)(model)
    assert (model.opset_imports[""], model.ir_version) == (21, 10)


def test_an_opset_that_cannot_express_a_node_is_refused_by_name() -> None:
    model = canonical("y = Gelu (x)")
    model.graph.node(0).name = "activation"
    with pytest.raises(UnsupportedError, match="'activation' needs opset 20"):
        LowerOpset(18)(model)


@pytest.mark.parametrize(
    ("dtypes", "opset"), [(("float", "float"), 18), (("float16", "float16"), 19), (("float16", "float"), 23)]
)
def test_inputs_that_had_to_be_of_one_type_raise_the_opset(dtypes: tuple[str, str], opset: int) -> None:
    inputs = f"{dtypes[0]}[4] x, {dtypes[1]} s, uint8 z"
    model = canonical("y = QuantizeLinear (x, s, z)", inputs, "uint8[4] y")
    LowerOpset()(model)
    assert model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ("y = Relu <slope = 1> (x)", "float[2, 3, 4] x", "Relu node 'bad': the operator has no attribute 'slope'"),
        ("y = Relu (x, x)", "float[2, 3, 4] x", "'bad': it has 2 inputs; the operator takes up to 1"),
        ("y, z = Relu (x)", "float[2, 3, 4] x", "'bad': it has 2 outputs"),
        ("y = Upsample (x, s)", "float[2, 3, 4] x, float[3] s", "'bad': the operator is deprecated since opset 10"),
        ("y = Erf (x)", "int32[2, 3, 4] x", r"'x', its input, is tensor\(int32\), which the operator does not allow"),
        ("y = Add (x, k)", "float[2, 3, 4] x, int64 k", r"'k' is tensor\(int64\) and 'x' is tensor\(float\)"),
    ],
)
def test_a_node_that_is_valid_in_no_opset_is_refused_by_name(body: str, inputs: str, message: str) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 26]> g ({inputs}) => (float[2, 3, 4] y) {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.graph.node(0).name = "bad"
    with pytest.raises(InvalidModelError, match=message):
        LowerOpset()(model)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.parametrize("attributes", ["", '<mode = "linear">', '<mode = "cubic">', '<mode = "nearest">'])
def test_images_are_sampled_by_the_older_names_of_the_modes(attributes: str) -> None:
    inputs, output = "float[1, 2, 4, 4] x, float[1, 3, 3, 2] g", "float[1, 2, 3, 3] y"
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((1, 2, 4, 4)).astype(np.float32),
        "g": rng.uniform(-1, 1, (1, 3, 3, 2)).astype(np.float32),
    }
    lowered, newer = (canonical(f"y = GridSample {attributes} (x, g)", inputs, output) for _ in range(2))
    LowerOpset()(lowered)
    LowerOpset(20)(newer)
    assert (lowered.opset_imports[""], newer.opset_imports[""]) == (18, 20)
    np.testing.assert_allclose(run(lowered, feeds), run(newer, feeds), rtol=1e-6, atol=1e-6)


def test_volumes_need_the_newer_sampling() -> None:
    inputs = "float[1, 2, 4, 4, 4] x, float[1, 3, 3, 3, 3] g"
    model = canonical("y = GridSample (x, g)", inputs, "float[1, 2, 3, 3, 3] y")
    LowerOpset()(model)
    assert model.opset_imports[""] == 20


@pytest.mark.parametrize("axis", [1, -2, None])
def test_a_known_axis_of_a_dft_becomes_an_attribute(axis: int | None) -> None:
    body = "y = DFT (x)" if axis is None else "y = DFT (x, , a)"
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 26]> g (float[1, 6, 5, 1] x) => (float[1, 6, 5, 2] y)
        <int64 a = {{{0 if axis is None else axis}}}> {{ {body} }}"""
    )
    InferShapes()(model)
    LowerOpset()(model)
    assert model.opset_imports[""] == 18
    if axis is not None:
        assert not model.graph.initializers
    x = np.random.default_rng(0).standard_normal((1, 6, 5, 1)).astype(np.float32)
    expected = np.fft.fft(x[..., 0], axis=1 if axis == 1 else 2)
    actual = run(model, {"x": x})
    np.testing.assert_allclose(actual[..., 0] + 1j * actual[..., 1], expected, rtol=1e-4, atol=1e-5)


def test_a_computed_axis_of_a_dft_needs_the_newer_form() -> None:
    model = canonical("y = DFT (x, , a)", "float[1, 6, 1] x, int64 a", "float[N, M, K] y")
    LowerOpset()(model)
    assert model.opset_imports[""] == 20


@pytest.mark.parametrize("opset", [17, 27])
def test_an_opset_out_of_range_is_refused(opset: int) -> None:
    with pytest.raises(InputError, match="18 to 26"):
        LowerOpset(opset)
