"""The gradients of convolution kernels: one marked Conv until they are lowered, and described from then on."""

from __future__ import annotations

import onnx_ir as ir
import pytest

import onnxgrad
from onnxgrad.passes.convolution_gradients import WeightForm
from onnxgrad.passes.correlations import CORRELATION, KERNEL, Correlation
from onnxgrad.passes.registry import Registry
from onnxgrad.passes.rules import BUILTIN_RULES

from .test_block_convolutions import SAME, convolution


def descriptions(model: ir.Model) -> dict[str, Correlation]:
    """The descriptions by the names of the values that they describe."""
    return {
        str(node.outputs[0].name): Correlation.from_json(node.metadata_props[CORRELATION])
        for node in model.graph.all_nodes()
        if CORRELATION in node.metadata_props
    }


@pytest.mark.parametrize("form", WeightForm, ids=str)
@pytest.mark.parametrize("group", [1, 4])
def test_the_last_node_says_what_is_correlated(form: WeightForm, group: int) -> None:
    rules = Registry(BUILTIN_RULES, choose=lambda forms: form.name if form.name in forms.forms else forms.plain)
    attributes = {"pads": [1, 0, 1, 1], "strides": [2, 1], "dilations": [1, 2], "group": group}
    model = convolution(["n", 8, 13, 14], (12, 8 // group, 3, 2), **attributes)
    program = onnxgrad.compile(model, wrt=["w"], rules=rules)
    assert descriptions(program.model) == {
        "w.grad": Correlation("x", "y.grad_output", (3, 2), (2, 1), (1, 2), (1, 0), group)
    }
    assert not any(KERNEL in node.metadata_props for node in program.model.graph.all_nodes())


def test_a_computed_padding_is_part_of_the_signal() -> None:
    model = convolution(["n", 8, "h", 14], (12, 8, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    (described,) = descriptions(onnxgrad.compile(model, wrt=["w"]).model).values()
    assert described.before[0] == 0
    assert described.long != "x"


def test_a_product_is_none() -> None:
    program = onnxgrad.compile(convolution(["n", 8, 13, 14], (12, 8, 1, 1)), wrt=["w"])
    assert descriptions(program.model) == {}
    assert "Conv" not in [node.op_type for node in program.model.graph if "grad" in str(node.name)]


def test_within_a_loop_they_are_lowered_too() -> None:
    """The kernel's gradient in a Scan over many cotangents is not left as the Conv that it is at first."""
    model = convolution([2, 16, 28, 28], (16, 16, 3, 3), pads=SAME)
    nodes = list(ir.from_proto(onnxgrad.vjp(model, wrt=["w"], num_seeds=2)).graph.all_nodes())
    assert "Scan" in [node.op_type for node in nodes]
    assert [node.op_type for node in nodes].count("Conv") == 1, "the forward one"
    assert not any(KERNEL in node.metadata_props for node in nodes)


def test_a_joint_graph_that_is_compiled_again_describes_only_its_own() -> None:
    model = convolution([2, 16, 14, 14], (16, 16, 3, 3), pads=SAME)
    first = onnxgrad.compile(model, wrt=["x", "w"])
    second = onnxgrad.compile(first.model, outputs="x.grad", wrt="w")
    assert descriptions(first.model).keys() == {"w.grad"}
    assert descriptions(second.model).keys() == {"w.grad_1"}
