"""Runs an ONNX graph with PyTorch operators, so that PyTorch's autograd is the oracle where a model has no source.

It knows the operators and attributes that `light_models` has, at opset 9, on 4-d images, and nothing of onnxgrad.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

Attributes = dict[str, Any]


def run(
    model: onnx.ModelProto,
    inputs: Mapping[str, Tensor],
    overrides: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Evaluates the model's outputs, in `dtype` throughout.

    `overrides` replaces initializers and node outputs, by value name; a node all of whose outputs are replaced is
    not run. Both it and `inputs` may require grad. Raises KeyError for an operator that is not in `OPERATORS`.
    """
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in model.graph.initializer}
    values |= inputs
    values |= overrides
    values = {name: v.to(dtype) if v.is_floating_point() else v for name, v in values.items()}
    for node in model.graph.node:
        if all(name in values for name in node.output):
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        result = OPERATORS[node.op_type](attributes, *(values[name] for name in node.input))
        # Every operator here has one output that is read; Dropout's mask and BatchNormalization's statistics are not.
        values[node.output[0]] = result.to(dtype) if result.is_floating_point() else result
    return {output.name: values[output.name] for output in model.graph.output}


def conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, dilations = attributes.get("strides", 1), attributes.get("dilations", 1)
    x = functional.pad(x, torch_pads(attributes))
    return functional.conv2d(x, weight, bias, strides, 0, dilations, attributes.get("group", 1))


def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    padded = functional.pad(x, torch_pads(attributes), value=-torch.inf)
    return functional.max_pool2d(padded, attributes["kernel_shape"], attributes.get("strides", 1))


def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    """The padding does not count (`count_include_pad=0`): divides by the share of each window that lies inside x."""
    pads, kernel, strides = torch_pads(attributes), attributes["kernel_shape"], attributes.get("strides", 1)
    average = functional.avg_pool2d(functional.pad(x, pads), kernel, strides)
    inside = functional.avg_pool2d(functional.pad(torch.ones_like(x), pads), kernel, strides)
    return average / inside


def torch_pads(attributes: Attributes) -> Sequence[int]:
    """From ONNX's (top, left, bottom, right) to PyTorch's (left, right, top, bottom)."""
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return left, right, top, bottom


def lrn(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, beta, bias = (attributes.get(*d) for d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return functional.local_response_norm(x, attributes["size"], alpha, beta, bias)


def batch_normalization(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Written out, because `torch.batch_norm` has no gradient for the statistics, which ONNX sees as inputs."""
    deviation = (variance + attributes.get("epsilon", 1e-5)).sqrt()
    x, mean, deviation, scale, bias = (x, *(v[:, None, None] for v in (mean, deviation, scale, bias)))
    return (x - mean) / deviation * scale + bias


def gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    return torch.addmm(c, a, b, alpha=attributes.get("alpha", 1.0), beta=attributes.get("beta", 1.0))


def softmax(attributes: Attributes, x: Tensor) -> Tensor:
    """Before opset 13: over all dimensions from `axis` on, together."""
    return x.flatten(attributes.get("axis", 1)).softmax(-1).reshape(x.shape)


def reshape(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """A 0 in `shape` keeps the dimension of x."""
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.tolist())])


def unsqueeze(attributes: Attributes, x: Tensor) -> Tensor:
    for axis in sorted(attributes["axes"]):
        x = x.unsqueeze(axis)
    return x


def constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return torch.from_numpy(value.copy()).expand(shape.tolist())


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda _, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "ConstantOfShape": constant_of_shape,
    "Conv": conv,
    "Dropout": lambda _, x: x,
    "Gemm": gemm,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "LRN": lrn,
    "MaxPool": max_pool,
    "Mul": lambda _, a, b: a * b,
    "Relu": lambda _, x: x.relu(),
    "Reshape": reshape,
    "Softmax": softmax,
    "Sum": lambda _, *inputs: sum(inputs[1:], inputs[0]),
    "Transpose": lambda attributes, x: x.permute(attributes["perm"]),
    "Unsqueeze": unsqueeze,
}
