"""The lowest opset that can express a graph, and refusal of one that cannot."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from onnxgrad.passes.errors import InputError, UnsupportedError
from onnxgrad.passes.lower_opset import LowerOpset


def canonical(body: str) -> ir.Model:
    return ir.from_proto(
        onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 26]> g (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ {body} }}'
        )
    )


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


@pytest.mark.parametrize("opset", [17, 27])
def test_an_opset_out_of_range_is_refused(opset: int) -> None:
    with pytest.raises(InputError, match="18 to 26"):
        LowerOpset(opset)
