"""A forward model that is being drawn: nodes and weights are added one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

T = TypeVar("T")
OPSET = 20
WEIGHT = "weight"
"""What the names of trained weights begin with."""


class Drawing:
    """Adds nodes and weights to a graph, with choices of hypothesis.

    Attributes:
        batch: the size of the first axis of all inputs and activations.
    """

    def __init__(self, data: Any, batch: int) -> None:
        self._data = data
        self.batch = batch
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(self.draw(st.integers(0, 1000)))

    def draw(self, strategy: st.SearchStrategy[T]) -> T:
        return self._data.draw(strategy)

    def choose(self, *options: T) -> T:
        return self.draw(st.sampled_from(options))

    def emit(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The name of the output of a new node; a list of them where there are several."""
        names = [f"{op_type.lower()}{len(self._nodes)}" + (f".{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(helper.make_node(op_type, inputs, names, name=f"node{len(self._nodes)}", **attributes))
        return names if outputs > 1 else names[0]

    def weight(self, *shape: int, mean: float = 0.0) -> str:
        """A trained weight, which keeps the size of what it is multiplied with."""
        fan_in = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        values = mean + self._random.normal(size=shape) / (math.sqrt(fan_in) if mean == 0 else 10)
        return self._initializer(WEIGHT, values.astype(np.float32))

    def constant(self, values: object) -> str:
        """A float32 array that is not trained."""
        return self._initializer("constant", np.asarray(values, np.float32))

    def ints(self, *values: int) -> str:
        return self._initializer("ints", np.array(values, np.int64))

    def scales(self, *values: float) -> str:
        """What must be float32 whatever the rest is."""
        return self._initializer("scales", np.array(values, np.float32))

    def normal(self, *shape: int) -> np.ndarray:
        return self._random.normal(size=shape).astype(np.float32)

    def integers(self, below: int, *shape: int) -> np.ndarray:
        return self._random.integers(0, below, shape)

    def model(self, x: np.ndarray, output: str, shape: Sequence[int], *, symbolic: bool) -> Model:
        """The model that was drawn, of the input `x` and the output `y`.

        Args:
            symbolic: whether the first axis has a name instead of a size.
        """
        first: list[Any] = ["batch"] if symbolic else [self.batch]
        self._nodes.append(helper.make_node("Identity", [output], ["y"]))
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        inputs = [helper.make_tensor_value_info("x", kind, first + list(x.shape[1:]))]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, first + list(shape[1:]))]
        graph = helper.make_graph(self._nodes, "drawn", inputs, outputs, self._initializers)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(proto, full_check=True)
        return Model(proto, x, self.normal(*shape))

    def _initializer(self, kind: str, values: np.ndarray) -> str:
        name = f"{kind}{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(values, name))
        return name


@dataclass(repr=False)
class Model:
    """A forward model with one input `x` and one output `y`, and what to run it on.

    Attributes:
        x: the input.
        dy: a cotangent of the output.
    """

    proto: onnx.ModelProto
    x: np.ndarray
    dy: np.ndarray

    def in_float64(self) -> Model:
        """The same in float64."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for value in (*proto.graph.input, *proto.graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        for tensor in proto.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and not tensor.name.startswith("scales"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
        x = self.x if self.x.dtype == np.int64 else self.x.astype(np.float64)
        return Model(proto, x, self.dy.astype(np.float64))

    def __repr__(self) -> str:
        """What hypothesis prints of a model that fails."""
        return onnx.printer.to_text(self.proto)
