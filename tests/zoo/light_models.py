"""The nine image classifiers that ship with the onnx package, which have no PyTorch source, with random weights.

In these files (opset 9, IR version 3) the large weights are outputs of ConstantOfShape nodes, to keep them small.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

Weights = dict[str, np.ndarray]


def load(name: str) -> onnx.ModelProto:
    """The file as it ships."""
    return onnx.load(FOLDER / f"light_{name}.onnx")


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """A normally distributed image for each float input that has no initializer (there is one)."""
    generator = np.random.default_rng(seed)
    defaults = {initializer.name for initializer in model.graph.initializer}
    return {
        value.name: generator.standard_normal(
            [dim.dim_value for dim in value.type.tensor_type.shape.dim], dtype=np.float32
        )
        for value in model.graph.input
        if value.name not in defaults
    }


def random_weights(model: onnx.ModelProto, seed: int = 0) -> Weights:
    """Random float32 values for every weight that is read, initializer or ConstantOfShape output, by value name.

    Kernels and matrices get variance 2 / fan-in (1e-4 right before the softmax), multipliers are near 1 (near 0.4 at
    the end of a residual branch), variances between 0.5 and 2, and what is added is near 0, so that signals keep
    their size from the image to the logits and the softmax does not saturate.
    """
    generator = np.random.default_rng(seed)
    uses = {name: (node, i) for node in model.graph.node for i, name in enumerate(node.input)}
    weights = {}
    for name, shape in weight_shapes(model).items():
        if name not in uses:
            continue
        node, position = uses[name]
        while node.op_type in ("Reshape", "Unsqueeze"):
            node, position = uses[node.output[0]]
        noise = generator.standard_normal(shape, dtype=np.float32)
        match node.op_type, position:
            case "Conv", 1:
                value = noise * np.sqrt(2 / np.prod(shape[1:]), dtype=np.float32)
            case "Gemm", 1 if uses[node.output[0]][0].op_type == "Softmax":
                value = 0.01 * noise
            case "Gemm", 1:
                value = noise * np.sqrt(2 / shape[-1], dtype=np.float32)
            case "BatchNormalization", 4:
                value = generator.uniform(0.5, 2, shape)
            case "BatchNormalization", 1 if uses[node.output[0]][0].op_type == "Sum":
                value = 0.4 + 0.1 * noise
            case ("BatchNormalization", 1) | ("Mul", _):
                value = 1 + 0.1 * noise
            case _:
                value = 0.1 * noise
        weights[name] = value.astype(np.float32)
    return weights


def weight_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    initializers = {i.name: i for i in model.graph.initializer}
    shapes = {n: tuple(i.dims) for n, i in initializers.items() if i.data_type == onnx.TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(numpy_helper.to_array(initializers[node.input[0]]).tolist())
    return shapes


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with these weights as initializers, each also a graph input as IR version 3 asks, for opset 9."""
    graph = model.graph
    nodes = [node for node in graph.node if node.output[0] not in weights]
    read = {name for node in nodes for name in node.input}
    kept = read - weights.keys()
    initializers = [i for i in graph.initializer if i.name in kept]
    inputs = [i for i in graph.input if i.name in kept]
    for name, weight in weights.items():
        initializers.append(numpy_helper.from_array(weight, name))
        inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, weight.shape))
    return helper.make_model(
        helper.make_graph(nodes, graph.name, inputs, graph.output, initializers),
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
    )
