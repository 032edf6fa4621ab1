"""Attribute values that no version of the standard knows are refused by node and attribute."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.check_attributes import KNOWN_VALUES, CheckAttributes


@pytest.mark.parametrize(("op_type", "attribute"), KNOWN_VALUES)
def test_each_known_value_passes_and_another_does_not(op_type: str, attribute: str) -> None:
    def model(value: str) -> ir.Model:
        node = ir.node(op_type, [], {attribute: value}, name="here")
        return ir.Model(ir.Graph([], [], nodes=[node], opset_imports={"": 26}), ir_version=10)

    for value in KNOWN_VALUES[op_type, attribute]:
        CheckAttributes().call(model(value))
    with pytest.raises(onnxgrad.InvalidModelError, match=f"{op_type} node 'here'.* {attribute} is 'sideways'"):
        CheckAttributes().call(model("sideways"))


@pytest.mark.parametrize(("op_type", "attribute"), KNOWN_VALUES)
def test_the_attributes_are_those_of_the_standard(op_type: str, attribute: str) -> None:
    schema = onnx.defs.get_schema(op_type, 26)
    default = schema.attributes[attribute].default_value
    if default.s:
        assert default.s.decode() in KNOWN_VALUES[op_type, attribute]


def test_the_compiler_refuses_it() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[2,3] x) => (float[4,5] y) <int64[4] p = {1, 1, 1, 1}> '
    model = onnx.parser.parse_model(text + '{ y = Pad <mode = "mirror"> (x, p) }')
    with pytest.raises(onnxgrad.InvalidModelError, match="mode is 'mirror', which is none of constant, reflect"):
        onnxgrad.compile(model, wrt="inputs")
