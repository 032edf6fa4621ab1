"""The gradients of convolution kernels: one marked Conv until they are lowered, and described from then on."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxgrad
from onnxgrad.passes.convolution_gradients import WeightForm
from onnxgrad.passes.correlations import CORRELATION, KERNEL, Correlation
from onnxgrad.passes.errors import InvalidModelError
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


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("channels", "group"), [((8, 12), 4), ((4, 4), 4), ((8, 12), 1), ((1, 12), 1), ((8, 1), 1)])
def test_what_lies_before_a_grouped_convolution(batch: int, channels: tuple[int, int], group: int) -> None:
    """A shuffle of channels is written as a correlation regroups its signal, and axes of size 1 hide which is which."""
    (few, many), size = channels, [6, 7]
    per_group = few // group
    text = f"""<ir_version: 10, opset_import: ["" : 18]>
    g (float[{batch},{few},6,7] x) => (float[{batch},{many},6,7] y)
    <int64[5] split = {{{batch}, {per_group}, {group}, 6, 7}}, int64[4] whole = {{{batch}, {few}, 6, 7}}> {{
        apart = Reshape (x, split)
        mixed = Transpose <perm = [0, 2, 1, 3, 4]> (apart)
        shuffled = Reshape (mixed, whole)
        y = Conv <pads = [1, 1, 1, 1], group = {group}> (shuffled, w)
    }}"""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((many, per_group, 3, 3), np.float32)
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    program = onnxgrad.compile(onnx.shape_inference.infer_shapes(model), wrt=["w"])
    assert list(descriptions(program.model)) == ["w.grad"]
    x = rng.standard_normal((batch, few, *size), np.float32)
    dy = rng.standard_normal((batch, many, *size), np.float32)
    shuffled = torch.tensor(x, dtype=torch.float64).reshape(batch, per_group, group, *size).transpose(1, 2)
    leaf = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(shuffled.reshape(batch, few, *size), leaf, padding=1, groups=group)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    actual = program.session(providers=["CPUExecutionProvider"]).grad({"x": x}, {"y": dy})["w"]
    assert leaf.grad is not None
    np.testing.assert_allclose(actual, leaf.grad.numpy(), rtol=0, atol=1e-5 * float(leaf.grad.abs().max()))


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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"long": "x"}'])
def test_a_damaged_description_is_refused(text: str) -> None:
    with pytest.raises(InvalidModelError, match="damaged"):
        Correlation.from_json(text)
