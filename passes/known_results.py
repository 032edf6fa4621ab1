"""The shapes and types of the results of nodes, remembered for nodes that are alike."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import onnx_ir as ir

from .element_types import INTEGERS

_FOLLOWING = frozenset(
    "Abs Add And Cast Conv ConvTranspose Cos Div Equal Erf Exp Expand Flatten Gemm Greater GreaterOrEqual Identity "
    "Less LessOrEqual Log MatMul Max Min Mul Neg Not Or Pad Pow Reciprocal ReduceMean ReduceSum Relu Reshape "
    "Sigmoid Sign Sin Slice Softmax Sqrt Squeeze Sub Tanh Transpose Unsqueeze Where".split()
)
"""Operators whose results' shapes follow from attributes, the shapes of the inputs, and constants that are integers."""

_LISTS = (ir.AttributeType.INTS, ir.AttributeType.FLOATS)
_SCALARS = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)


class KnownResults:
    """Blocks of a network are alike, and so are their gradients; telling that takes a third of inferring anew."""

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[tuple[ir.DataType, ir.Shape], ...]] = {}

    def recall(self, node: ir.Node, question: Hashable) -> bool:
        """Give the outputs of *node* the shapes and types that are known by *question*; whether they are."""
        results = self._results.get(question)
        if results is None:
            return False
        for output, (dtype, shape) in zip(node.outputs, results, strict=True):
            output.dtype, output.shape = dtype, shape
        return True

    def remember(self, node: ir.Node, question: Hashable) -> None:
        """Keep the shapes and types of the outputs of *node*, unless they depend on more than *question* tells."""
        known = {symbol for value in node.inputs if value is not None for symbol in _symbols(value)}
        results = []
        for output in node.outputs:
            # What integers hold is inferred too, and a size that has no name yet is another one each time.
            if output.shape is None or output.dtype is None or output.dtype in INTEGERS:
                return
            if not known.issuperset(_symbols(output)):
                return
            results.append((output.dtype, output.shape))
        self._results[question] = tuple(results)


def question_of(node: ir.Node) -> Hashable | None:
    """What the outputs of *node* follow from, equal for nodes that are alike; None if it is to be inferred itself."""
    if node.op_type not in _FOLLOWING or node.domain != "":
        return None
    if any(output.shape is not None or output.dtype is not None for output in node.outputs):
        return None
    inputs: list[Hashable] = []
    for value in node.inputs:
        if value is None:
            inputs.append(None)
            continue
        dtype, shape = value.dtype, value.shape
        holds_integers = dtype in INTEGERS
        if dtype is None or shape is None or (holds_integers and value.producer() is not None):
            return None
        inputs.append((dtype, shape.dims, value if holds_integers else None))
    attributes = []
    for name, attribute in node.attributes.data.items():
        held: Any = attribute.value
        if attribute.is_ref() or attribute.type not in (*_LISTS, *_SCALARS):
            return None
        attributes.append((name, attribute.type, tuple(held) if attribute.type in _LISTS else held))
    return node.op_type, len(node.outputs), tuple(inputs), tuple(attributes)


def _symbols(value: ir.Value) -> set[str]:
    dims = [dim for dim in value.shape or () if not isinstance(dim, int)]
    return {symbol for dim in dims for symbol in dim.free_symbols()}
